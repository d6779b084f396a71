// News from the run, once a second, and the way to stop it.
const PAUSE = 1000;
let missed = 0;

function merge(news) {
  const { at, values } = news.losses;
  for (const name of new Set([...Object.keys(values), ...Object.keys(data.losses.values)])) {
    const old = data.losses.values[name] ?? data.losses.at.map(() => null);
    data.losses.values[name] = [...old, ...(values[name] ?? at.map(() => null))];
  }
  data.losses.at.push(...at);
  data.frames.push(...news.frames);
  data.events.push(...news.events);
  for (const name of ["state", "status", "now", "sizes", "layers", "peak", "results"]) data[name] = news[name];
  if (news.result) data.result = news.result;
}

function progress() {
  const { share, seconds, iteration, iterations } = data.now;
  $("live").hidden = data.state !== "running";
  if (share === undefined) return;
  $("share").value = share;
  const left = share > 0 && share < 1 ? `, about ${duration((seconds * (1 - share)) / share)} left` : "";
  $("left").textContent = `${iteration} of ${iterations} iterations${left}`;
}

function gone(words) {
  $("live").hidden = true;
  $("why").hidden = false;
  $("why").textContent = words;
}

async function ask() {
  const { losses, frames, events, results } = data;
  const known = [losses.at.at(-1) ?? 0, frames.length, events.length, results].join();
  try {
    const answer = await fetch(`data?known=${known}`, { cache: "no-store" });
    const news = await answer.json();
    missed = 0;
    if (news.final) {
      Object.assign(data, news.final);
      drawAll();
      return gone(`${ending()} The run has ended, and its server has gone; this page stays as it is.`);
    }
    merge(news);
    drawAll();
    progress();
  } catch {
    // A busy machine may be late; a server that has gone stays so
    if (++missed > 5) return gone("The run's server has gone; what you see is the last that was heard of it.");
  }
  setTimeout(ask, PAUSE);
}

$("stop").addEventListener("click", async () => {
  $("stop").disabled = true;
  try {
    const answer = await fetch("stop", { method: "POST", headers: { "X-Token": data.token } });
    $("stop").textContent = answer.ok ? "Stopping after this step" : "Refused";
  } catch {
    $("stop").disabled = false;
  }
});
progress();
setTimeout(ask, PAUSE);
