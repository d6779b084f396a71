// Curves over the evaluations, logarithmic upwards, with a crosshair that the pointer or the keys move.
const HEIGHT = 270;
const EDGE = { left: 52, right: 12, top: 22, bottom: 26 };

const pen = (s) => ({ stroke: `var(${s.color})`, "stroke-dasharray": s.dash ? "5 4" : null });
const short = (value) => (value >= 1e4 || value < 1e-3 ? value.toExponential(0) : digits(value, 3));
const upright = (kind, x, top) => draw("line", { class: kind, x1: x, x2: x, y1: top, y2: HEIGHT - EDGE.bottom });

// series: () => [{ name, color, dash, values }], values as long as data.losses.at; extra: elements beside the title
function chart(box, title, series, extra = []) {
  const hidden = new Set();
  const plot = make("div", {
    class: "plot", tabindex: 0, role: "slider", "aria-label": `${title}: evaluation`, "aria-orientation": "horizontal",
  });
  const svg = draw("svg", { "aria-hidden": "true" });
  const at = make("p", { class: "at" });
  const legend = make("div", { class: "legend", role: "group", "aria-label": `curves of ${title}` });
  plot.append(svg);
  box.append(make("div", { class: "head" }, make("h3", { text: title }), ...extra), plot, at, legend);
  let cursor = null; // index of an evaluation; null: the last
  let scale = null;

  const index = () => Math.min(cursor ?? Infinity, data.losses.at.length - 1);

  function range(shown) {
    const values = shown.flatMap((s) => s.values).filter((v) => v !== null && v > 0);
    if (!values.length) return null;
    let low = Infinity, high = 0;
    for (const v of values) { if (v < low) low = v; if (v > high) high = v; }
    if (high < 1.5 * low) [low, high] = [low / 1.3, high * 1.3];
    return [Math.log10(low), Math.log10(high)];
  }

  // 1, 2 and 5 in each decade, or decades only where there are many
  function ticks([low, high]) {
    const steps = high - low > 4 ? [1] : high - low > 1.6 ? [1, 3] : [1, 2, 3, 5, 7];
    const found = [];
    for (let decade = Math.floor(low); decade <= high; decade++)
      for (const step of steps) {
        const y = decade + Math.log10(step);
        if (y >= low && y <= high) found.push([step * 10 ** decade, y]);
      }
    const every = Math.ceil(found.length / 7);
    return found.filter((_, i) => i % every === 0);
  }

  function redraw() {
    const all = series(), shown = all.filter((s) => !hidden.has(s.name));
    const width = Math.max(240, plot.clientWidth), evaluations = data.losses.at;
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.replaceChildren();
    const span = range(shown);
    scale = null;
    if (evaluations.length && span) {
      const first = evaluations[0], last = Math.max(evaluations.at(-1), first + 1);
      const [inner, tall] = [width - EDGE.left - EDGE.right, HEIGHT - EDGE.top - EDGE.bottom];
      const x = (e) => EDGE.left + (inner * (e - first)) / (last - first);
      const y = (v) => EDGE.top + (tall * (span[1] - Math.log10(v))) / (span[1] - span[0]);
      scale = { x, y, first, last, inner };
      for (const [value, log] of ticks(span)) {
        const where = EDGE.top + (tall * (span[1] - log)) / (span[1] - span[0]);
        svg.append(
          draw("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: where, y2: where }),
          draw("text", { x: EDGE.left - 8, y: where + 4, "text-anchor": "end", text: short(value) }),
        );
      }
      let free = 0; // from where a size's name has room
      for (const size of data.sizes) {
        if (data.sizes.length < 2 || size.evaluation < first) continue;
        const where = x(size.evaluation), name = `${Math.max(size.width, size.height)} px`;
        if (size.evaluation > first) svg.append(upright("size", where, EDGE.top - 6));
        if (where >= free && where < width - 40) {
          svg.append(draw("text", { x: where + 4, y: EDGE.top - 8, text: name }));
          free = where + 14 + 7 * name.length;
        }
      }
      for (const [e, anchor] of [[first, "start"], [last, "end"]])
        svg.append(draw("text", { x: x(e), y: HEIGHT - 6, "text-anchor": anchor, text: e }));
      const middle = EDGE.left + inner / 2;
      svg.append(draw("text", { x: middle, y: HEIGHT - 6, "text-anchor": "middle", text: "evaluation" }));
      for (const s of shown) {
        let path = "", down = false;
        s.values.forEach((v, i) => {
          const there = v !== null && v > 0;
          if (there) path += `${down ? "L" : "M"}${x(evaluations[i]).toFixed(1)} ${y(v).toFixed(1)}`;
          down = there;
        });
        svg.append(draw("path", { class: "curve", d: path, ...pen(s) }));
      }
    }
    point(all);
  }

  // The crosshair, and the values where it stands
  function point(all = series()) {
    const i = index(), evaluation = data.losses.at[i];
    svg.querySelectorAll(".cross, circle").forEach((node) => node.remove());
    if (evaluation === undefined) return;
    const size = sizeAt(evaluation);
    at.textContent = `evaluation ${evaluation}${size ? `, ${size.width} \u00d7 ${size.height}` : ""}`;
    const words = [];
    const held = legend.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    legend.replaceChildren(
      ...all.map((s) => {
        const value = s.values[i], visible = !hidden.has(s.name);
        if (visible) words.push(`${s.name} ${digits(value, 3)}`);
        if (visible && scale && value > 0 && cursor !== null)
          svg.append(draw("circle", { cx: scale.x(evaluation), cy: scale.y(value), r: 3.5, fill: `var(${s.color})` }));
        return make(
          "button",
          { type: "button", "aria-pressed": visible, "data-name": s.name, onclick: () => toggle(s.name) },
          draw(
            "svg",
            { "aria-hidden": "true", viewBox: "0 0 18 10" },
            draw("line", { x1: 1, x2: 17, y1: 5, y2: 5, "stroke-width": 3, ...pen(s) }),
          ),
          make("span", { text: s.name }),
          make("data", { value: value ?? "", text: digits(value) }),
        );
      }),
    );
    if (held) [...legend.children].find((node) => node.dataset.name === held)?.focus();
    if (scale && cursor !== null)
      svg.append(upright("cross", scale.x(evaluation), EDGE.top));
    plot.setAttribute("aria-valuemin", data.losses.at[0]);
    plot.setAttribute("aria-valuemax", data.losses.at.at(-1));
    plot.setAttribute("aria-valuenow", evaluation);
    plot.setAttribute("aria-valuetext", `${evaluation}: ${words.join(", ")}`);
  }

  function toggle(name) {
    if (!hidden.delete(name)) hidden.add(name);
    redraw();
  }

  function follow(event) {
    if (!scale) return;
    const left = svg.getBoundingClientRect().left;
    const wanted = scale.first + ((event.clientX - left - EDGE.left) * (scale.last - scale.first)) / scale.inner;
    let best = 0;
    data.losses.at.forEach((e, i) => { if (Math.abs(e - wanted) < Math.abs(data.losses.at[best] - wanted)) best = i; });
    cursor = best;
    point();
  }

  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("keydown", (event) => {
    const last = data.losses.at.length - 1, far = Math.max(1, Math.round(last / 10));
    const arrows = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 };
    const moves = { ...arrows, PageDown: -far, PageUp: far, Home: -last, End: last };
    if (!(event.key in moves)) return;
    event.preventDefault();
    cursor = Math.min(last, Math.max(0, index() + moves[event.key]));
    point();
  });
  new ResizeObserver(redraw).observe(plot);
  return redraw;
}
