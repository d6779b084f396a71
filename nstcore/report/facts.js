// What the run was made with, and what it cost, as tables.
function table(kind, head, rows, foot = []) {
  const cell = (name, [content, kind], scope) =>
    make(name, { class: kind ?? null, scope }, ...(Array.isArray(content) ? content : [content]));
  const line = (cells, attributes = {}) =>
    make("tr", attributes, ...cells.map((c, i) => cell(i ? "td" : "th", c, i ? null : "row")));
  return make(
    "table", { class: kind },
    ...(head.length ? [make("thead", {}, make("tr", {}, ...head.map((c) => cell("th", c, "col"))))] : []),
    make("tbody", {}, ...rows.map((r) => line(r)), ...foot.map((r) => line(r, { class: "sum" }))),
  );
}

const pairs = (items) => table("pairs", [], items.map(([name, value]) => [[name], [named(value)]]));
const note = (text) => make("p", { class: "note", text });
const bars = () => [make("span", { class: "hidden", text: "as bars" }), "bars"];

function strip(share, kind) {
  const bar = make("span", { class: share ? kind : `${kind} none` });
  bar.style.width = `${100 * share}%`;
  return bar;
}

function times() {
  const rows = data.layers;
  const when = data.state === "running" ? "will be" : "would have been";
  if (!rows.length) return [note(`One step at the last size ${when} timed.`)];
  const most = Math.max(...rows.map((r) => Math.max(r.forward, r.backward)));
  const total = (way) => rows.reduce((sum, r) => sum + r[way], 0);
  const ms = (seconds) => [seconds ? (1000 * seconds).toFixed(seconds < 0.01 ? 2 : 1) : "", "number"];
  return [
    make("p", { class: "key" }, make("span", { text: "forward" }), make("span", { text: "backward" })),
    table(
      "costs",
      [["layer"], ["forward ms", "number"], ["backward ms", "number"], bars()],
      rows.map((r) => {
        const strips = [strip(r.forward / most, "strip"), strip(r.backward / most, "strip back")];
        return [[r.layer], ms(r.forward), ms(r.backward), [strips, "bars"]];
      }),
      [[["together"], ms(total("forward")), ms(total("backward")), [""]]],
    ),
    note(
      "One step at the last size, the second. A pooling that an engine computes with the convolution before it is in " +
        "that row; the pyramid's smaller pictures come on top.",
    ),
  ];
}

function memory() {
  const { buffers, width, height } = data.memory;
  const all = Object.entries(buffers).filter(([, n]) => n).sort((a, b) => b[1] - a[1]);
  const sum = all.reduce((total, [, n]) => total + n, 0);
  const row = ([name, n]) => [[name], [bytes(n), "number"], [[strip(n / all[0][1], "strip")], "bars"]];
  const small = all.slice(8);
  const title = make("summary", { text: `${small.length} smaller ones` });
  const rest = make("details", {}, title, table("costs", [], small.map(row)));
  return [
    note(`Most that the process has held: ${data.peak ? bytes(data.peak) : "unknown"}`),
    table(
      "costs",
      [[`buffers at ${width} \u00d7 ${height}`], ["size", "number"], bars()],
      all.slice(0, 8).map(row),
      [[["together"], [bytes(sum), "number"], [""]]],
    ),
    ...(small.length ? [rest] : []),
  ];
}

function settings() {
  const instead = (s) => make("span", { class: "note", text: s.differs ? ` instead of ${s.default}` : "" });
  const rows = (items) => items.map((s) => [[s.name], [[named(s.value), instead(s)]]]);
  const [own, usual] = [data.settings.filter((s) => s.differs), data.settings.filter((s) => !s.differs)];
  return [
    note(own.length ? "Different from the defaults:" : "Nothing differs from the defaults."),
    table("pairs", [], rows(own)),
    make(
      "details",
      { id: "usual" },
      make("summary", { text: `${usual.length} as by default` }),
      table("pairs", [], rows(usual)),
    ),
  ];
}

function events() {
  if (!data.events.length) return [note("Nothing happened beside the plan.")];
  return [pairs(data.events.map((e) => [`evaluation ${e.evaluation}`, e.text]))];
}

function facts() {
  const open = $("usual")?.open;
  const source = (what) => (p) =>
    make(
      "li", {},
      make("img", { src: p.src, alt: `${what}: ${p.name}` }),
      make("p", {}, make("span", { text: `${what}, ${p.width} \u00d7 ${p.height}` }), named(p.name)),
    );
  $("sources").replaceChildren(source("content")(data.pictures.content), ...data.pictures.styles.map(source("style")));
  $("times").replaceChildren(...times());
  $("memory").replaceChildren(...memory());
  $("settings").replaceChildren(...settings());
  if (open) $("usual").open = true;
  $("weights").replaceChildren(pairs(data.weights));
  $("machine").replaceChildren(pairs(data.machine));
  $("events").replaceChildren(...events());
  $("command").textContent = data.command;
  $("foot").textContent = `Made by nstcore ${data.version} on ${data.begun}. All of this page stands in one file.`;
}
