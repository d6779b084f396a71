// The picture over time: frames to go through by hand, or to watch.
function player() {
  const [scrub, play, frame, moment] = ["scrub", "play", "frame", "moment"].map($);
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let timer = 0;

  function show() {
    const now = data.frames[Number(scrub.value)];
    if (!now) return;
    frame.src = now.src;
    const size = sizeAt(now.evaluation) ?? now;
    const words = `iteration ${now.iteration}, ${size.width} \u00d7 ${size.height} pixels, loss ${digits(now.loss, 4)}`;
    frame.alt = `the picture at ${words}`;
    moment.textContent = `Evaluation ${now.evaluation}: ${words}`;
    scrub.setAttribute("aria-valuetext", words);
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }

  function next() {
    if (Number(scrub.value) >= data.frames.length - 1) return stop();
    scrub.value = Number(scrub.value) + 1;
    show();
  }

  play.addEventListener("click", () => {
    if (timer) return stop();
    if (Number(scrub.value) >= data.frames.length - 1) scrub.value = 0;
    show();
    // Where motion is unwelcome, slowly, as one turns pages
    timer = setInterval(next, still.matches ? 1500 : 160);
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
  });
  scrub.addEventListener("input", () => {
    stop();
    show();
  });

  return () => {
    // Who looks at the last frame goes on to the new one
    const last = Number(scrub.value) >= Number(scrub.max);
    scrub.max = Math.max(0, data.frames.length - 1);
    if (last && !timer) scrub.value = scrub.max;
    $("time").hidden = !data.frames.length;
    const largest = data.frames.at(-1);
    if (largest) frame.parentElement.style.aspectRatio = `${largest.width} / ${largest.height}`;
    const first = data.frames[0]?.evaluation ?? 1;
    $("frames-note").textContent =
      data.resumed && first > 1
        ? `This run was resumed at evaluation ${first}; the pictures before it were not kept.`
        : `${data.frames.length} pictures, more of them early, where most happens. Small sizes are shown enlarged.`;
    show();
  };
}
