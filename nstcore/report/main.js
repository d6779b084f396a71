// The page itself: what is drawn once, and what is drawn again whenever there is news.
const LAYER_COLORS = ["--d0", "--d1", "--d2", "--d3", "--d4", "--d5", "--d6"];

function terms(weighed) {
  const { values } = data.losses;
  const of = (name, factor) => (values[name] ?? []).map((v) => (v === null || !weighed ? v : factor * v));
  const { content, style, tv } = data.factors;
  const found = [
    { name: "total", color: "--s0", values: values.total ?? [] },
    { name: "content", color: "--s1", values: of("content", content) },
    { name: "style", color: "--s2", values: of("style", style) },
    { name: "tv", color: "--s3", values: of("tv", tv) },
  ];
  for (const name of Object.keys(values))
    if (name.endsWith(":total"))
      found.push({ name: `level 1/${name.split(":")[0]}`, color: "--d0", dash: true, values: values[name] });
  return found.filter((s) => s.values.some((v) => v !== null && v !== 0));
}

function layers(level) {
  const prefix = level === "1" ? "" : `${level}:`;
  const names = Object.keys(data.losses.values).filter((name) => name.startsWith(prefix));
  let styles = 0;
  return names.flatMap((name) => {
    const [kind, layer] = name.slice(prefix.length).split("."), content = kind === "content";
    if (!layer || kind.includes(":")) return [];
    const color = content ? "--s0" : LAYER_COLORS[styles++ % LAYER_COLORS.length];
    return { name: `${kind} ${layer}`, color, dash: content, values: data.losses.values[name] };
  });
}

// Why a run ended before its time
function ending() {
  if (data.state === "failed") return `It ended because: ${data.status}.`;
  return data.state === "interrupted" ? "It was stopped before its end; this is the best picture so far." : "";
}

function header() {
  const { state, now, result, title } = data;
  $("title").replaceChildren(named(title));
  const words = state[0].toUpperCase() + state.slice(1);
  const parts = [];
  if (state !== "running" && result) parts.push(`${result.width} \u00d7 ${result.height} pixels`);
  if (state !== "running" && now.iterations) parts.push(`${now.iteration} of ${now.iterations} iterations`);
  if (now.seconds !== undefined) parts.push(duration(now.seconds));
  if (now.loss !== undefined) parts.push(`loss ${digits(now.loss, 4)}`);
  $("lead").replaceChildren(
    named(data.pictures.content.name),
    " in the manner of ",
    named(data.pictures.styles.map((s) => s.name).join(", ")),
    ". ",
    make("span", { class: `state ${state}`, text: words }), parts.length ? `: ${parts.join(", ")}.` : ".",
  );
  $("why").textContent = ending();
  $("why").hidden = !ending();
  document.title = `${title}: ${words.toLowerCase()}`;
}

function theme() {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const show = () => {
    const now = chosen ?? (dark.matches ? "dark" : "light");
    root.dataset.theme = now;
    $("theme").textContent = now === "dark" ? "Light" : "Dark";
  };
  $("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    show();
  });
  dark.addEventListener("change", show);
  show();
}

function copying() {
  const say = (text) => {
    $("copy").textContent = text;
    setTimeout(() => ($("copy").textContent = "Copy"), 2000);
  };
  $("copy").addEventListener("click", () => {
    if (navigator.clipboard) return navigator.clipboard.writeText(data.command).then(() => say("Copied"), select);
    return select();
  });
  function select() {
    getSelection().selectAllChildren($("command"));
    say("Selected");
  }
}

const weighed = make("input", { type: "checkbox", id: "weighed", onchange: () => draws[2]() });
const level = make("select", { id: "level", "aria-label": "level of the pyramid", onchange: () => draws[3]() });

function levels() {
  const names = Object.keys(data.losses.values).filter((name) => name.endsWith(":total"));
  const found = ["1", ...names.map((name) => name.split(":")[0])];
  const words = (k) => (k === "1" ? "the picture" : `level 1/${k}`);
  if (found.length !== level.options.length)
    level.replaceChildren(...found.map((k) => make("option", { value: k, text: words(k) })));
  level.hidden = found.length < 2;
  const { every } = data.losses;
  const left = `One evaluation in ${every} is on this page: the run had more than it has room for.`;
  $("loss-note").textContent = every > 1 ? left : "";
}

theme();
copying();
const draws = [
  compare(),
  player(),
  chart($("terms"), "The loss and its terms", () => terms(weighed.checked), [
    make("label", {}, weighed, "times their weights"),
  ]),
  chart($("layers"), "Layer by layer", () => layers(level.value || "1"), [level]),
  header,
  levels,
  facts,
];
const drawAll = () => draws.forEach((one) => one());
drawAll();
