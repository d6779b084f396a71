// The content over the result, up to a line that the pointer or the keys move.
function compare() {
  const [box, split, before, handle] = ["compare", "split", "before", "handle"].map($);

  function show() {
    const at = Number(split.value);
    before.style.clipPath = `inset(0 ${100 - at}% 0 0)`;
    handle.style.left = `${at}%`;
    split.setAttribute("aria-valuetext", `${at} % content`);
  }

  function follow(event) {
    const { left, width } = box.getBoundingClientRect();
    split.value = (100 * (event.clientX - left)) / width;
    show();
  }

  box.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    box.setPointerCapture(event.pointerId);
    split.focus({ preventScroll: true });
    event.preventDefault();
    follow(event);
  });
  box.addEventListener("pointermove", (event) => {
    if (box.hasPointerCapture(event.pointerId)) follow(event);
  });
  split.addEventListener("input", show);
  show();

  return () => {
    // While it runs, until the first large picture has come, the last frame
    const result = data.result ?? data.frames.at(-1);
    const content = data.pictures.content;
    const { width, height } = result ?? content;
    box.style.aspectRatio = `${width} / ${height}`;
    box.style.maxWidth = `calc(86vh * ${width / height})`;
    before.src = content.src;
    before.alt = `content: ${content.name}`;
    $("after").src = (result ?? content).src;
    $("after").alt = result ? `result: ${data.title}` : "the result is not there yet";
  };
}
