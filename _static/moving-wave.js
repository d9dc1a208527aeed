/* The figure of 1.2: one wave, ten points of it, and a network that starts to learn them
from one of three places.

Starts, wave and learning rate are those of the page (reptile_book/weights.py); the steps
are taken here (reptile.js). The still picture is drawn by reptile_book/wave_control.py. */

(function () {
  "use strict";
  const LAST = 32;
  const STEPS = Array.from({ length: LAST + 1 }, (_, i) => i);
  const GRID = Array.from({ length: 100 }, (_, i) => -5 + (10 * i) / 99); // the query set

  /* What is said of each start before the first step, and after some. */
  const STARTS = {
    random: {
      name: "random weights",
      looks: { class: "green", "stroke-dasharray": "3 5" },
      before: "Nothing has been learnt yet.",
      after: "The steps bend an arbitrary curve, slow to fit even the ten points; between them it has nothing to go by.",
    },
    joint: {
      name: "joint training",
      looks: { class: "orange", "stroke-dasharray": "11 5" },
      before: "It has learnt the mean of all waves. Each (thin lines) has its opposite, so the mean is 0 and says nothing of what a wave looks like.",
      after: "The steps bend the mean of all waves, a flat line, to ten points. Training never asked where they lead, so it is no better a start than random weights.",
    },
    reptile: {
      name: "Reptile’s φ",
      looks: { class: "blue" },
      before: "Before any step it is no solution either. Take a few steps.",
      after: "Trained to be good after a few steps, it has learnt what a wave looks like; ten points of one only say which.",
    },
  };
  const NAMES = Object.keys(STARTS);

  const sine = ({ amplitude, phase }, x) => amplitude * Math.sin(x + phase);
  const onGrid = (wave) => GRID.map((x) => sine(wave, x));
  const zero = (wave) => Reptile.squaredError(GRID.map(() => 0), onGrid(wave), GRID.length, 1); // of answering 0
  const looks = (name, more = "") => ({ ...STARTS[name].looks, class: `m-line ${more} ${STARTS[name].looks.class}` });
  const line = (plane, points) => points.filter(([, y]) => Number.isFinite(y)).map(plane.pixels).join(" ");

  /* Other waves, of height a and -a, to show what their mean is. */
  const OTHERS = [0.6, 1.2, 1.9, 2.5, 3.2, 3.8, 4.5].flatMap((a, i) => [a, -a].map((amplitude) => ({ amplitude, phase: 2.4 * i })));

  /** Take all steps from a start. What is asked of them afterwards is computed once:
      the answers on the grid after k steps, and the errors there and on the points. */
  function fit({ network, loss, optimizer, starts }, start, task, wave) {
    const thetas = [];
    const watch = (step, theta) => thetas.push(theta.slice());
    Reptile.innerLoop(network, starts[start], task, { optimizer, loss, steps: LAST, watch });
    const once = (compute, known = []) => (k) => (k in known ? known[k] : (known[k] = compute(k)));
    const answers = once((k) => Reptile.outputs(network, thetas[k], GRID, GRID.length));
    return {
      answers,
      onWave: once((k) => loss(answers(k), onGrid(wave), GRID.length, 1)),
      onPoints: once((k) => Reptile.lossOf(network, thetas[k], task, loss)),
    };
  }

  function wave(kit, figure) {
    const n = kit.number;
    const label = "A sine wave, ten points that can be moved, and what the network answers";
    const plane = kit.plane({ x: [-5.5, 5.5], y: [-5.6, 5.6], height: 300, label });
    const told = "The error on the wave after 0 to 32 steps from each start, as multiples of that of answering 0";
    const chart = kit.plane({ x: [-4.2, 33], y: [-0.36, 1.7], height: 165, label: told });
    const draw = (on, tag, more, text) => kit.draw(on.svg, tag, more, text);
    const write = (on, text, [x, y], more) => draw(on, "text", { class: "faint", x: on.x(x), y: on.y(y), ...more }, text);

    const level = (on, y, x1, x2) =>
      draw(on, "line", { class: "m-line m-thin faint", x1: on.x(x1), x2: on.x(x2), y1: on.y(y), y2: on.y(y), opacity: 0.6 });
    const curve = (values) => line(plane, GRID.map((x, i) => [x, values[i]]));

    level(plane, 0, -6, 6);
    for (const x of [-5, 0, 5]) write(plane, n(x, 0), [x, -5.25], { "text-anchor": "middle" });
    for (const y of [-4, 4]) write(plane, n(y, 0), [-5.4, y], { dy: 5 });
    write(plane, "x", [2.5, -5.25], { "text-anchor": "middle" });
    write(plane, "y", [-5.4, 0], { dy: -5 });
    const others = draw(plane, "g", { opacity: 0.5 });
    for (const other of OTHERS) kit.draw(others, "polyline", { class: "m-line m-thin faint", points: curve(onGrid(other)) });
    const truth = draw(plane, "polyline", { class: "m-line m-wide faint", opacity: 0.45 });
    const before = draw(plane, "polyline", { "stroke-dasharray": "2 4" });
    const answer = draw(plane, "polyline");

    for (const y of [0, 1]) level(chart, y, 0, LAST);
    write(chart, "answering 0", [LAST, 1], { "text-anchor": "end", dy: -9 });
    for (const x of [0, 8, 16, 24, 32]) write(chart, String(x), [x, -0.27], { "text-anchor": "middle" });
    write(chart, "steps", [4, -0.27], { "text-anchor": "middle" });
    write(chart, "error", [-1.2, 0.45], { transform: `rotate(-90 ${chart.x(-1.2)} ${chart.y(0.45)})` });
    const now = draw(chart, "line", { class: "m-line m-thin", y1: 0, y2: chart.y(0) });
    const lines = Object.fromEntries(NAMES.map((name) => [name, draw(chart, "polyline")]));
    const dot = draw(chart, "circle", { r: 5.5 });

    const table = kit.html(kit.pictures, "table", { class: "moving-table" });
    const head = kit.html(kit.html(table, "thead"), "tr");
    const [taken] = ["", "on the wave", "on its ten points"].map((text) => kit.html(head, "th", { scope: "col" }, text));
    const body = kit.html(table, "tbody");
    const rows = Object.fromEntries(
      NAMES.map((name) => {
        const row = kit.html(body, "tr");
        const title = kit.html(row, "th", { scope: "row", class: STARTS[name].looks.class });
        const sign = kit.draw(title, "svg", { viewBox: "0 0 30 8", class: "moving-sign", "aria-hidden": "true" });
        kit.draw(sign, "path", { ...looks(name), d: "M0 4H30" });
        title.append(STARTS[name].name);
        return [name, { row, cells: [kit.html(row, "td"), kit.html(row, "td")] }];
      }),
    );

    // ---- What is shown: a wave, its points, a start, a number of steps -----------------
    let data = null; // arrives a little later
    const again = { start: "random", steps: 8 };
    const state = { wave: null, points: [], ...again };
    let [fits, handles] = [{}, []];

    /** Take all steps anew. The lower picture takes longest, so it follows line by line. */
    function learn() {
      const { wave, points } = state;
      const task = { x: points.map(([x]) => x), y: points.map(([, y]) => y), count: points.length };
      const mine = (fits = Object.fromEntries(NAMES.map((name) => [name, fit(data, name, task, wave)])));
      const left = [...NAMES];
      for (const name of NAMES) kit.set(lines[name], { opacity: 0.3 });
      const next = () => {
        if (mine !== fits) return; // points have moved since
        const name = left.shift();
        const errors = STEPS.map((k) => [k, mine[name].onWave(k) / zero(wave)]);
        kit.set(lines[name], { points: line(chart, errors), opacity: null });
        if (left.length) requestAnimationFrame(next);
      };
      requestAnimationFrame(next);
    }

    const when = () => (state.steps === 1 ? "after 1 step" : state.steps ? `after ${state.steps} steps` : "before any step");

    function show() {
      const { start, steps, wave, points } = state;
      const own = fits[start];
      const colour = STARTS[start].looks.class;
      kit.set(truth, { points: curve(onGrid(wave)) });
      kit.set(others, { visibility: start === "joint" && !steps ? null : "hidden" });
      kit.set(before, { class: `m-line m-thin ${colour}`, points: steps ? curve(own.answers(0)) : "" });
      kit.set(answer, { class: `m-line m-answer ${colour}`, points: curve(own.answers(steps)) });
      points.forEach((point, i) => handles[i].move(...point));
      for (const name of NAMES) {
        kit.set(lines[name], looks(name, name === start ? "m-answer" : ""));
        const { row, cells } = rows[name];
        row.classList.toggle("moving-chosen", name === start);
        cells[0].textContent = n(fits[name].onWave(steps));
        cells[1].textContent = n(fits[name].onPoints(steps));
      }
      kit.set(now, { x1: chart.x(steps), x2: chart.x(steps) });
      kit.set(dot, { class: `m-dot ${colour}`, cx: chart.x(steps), cy: chart.y(own.onWave(steps) / zero(wave) || 0) });
      taken.textContent = `error ${when()}`;
    }

    function tell(first = "") {
      const { start, steps } = state;
      const { name, before, after } = STARTS[start];
      kit.say(`${first}From ${name}, ${when()}: error ${n(fits[start].onWave(steps))} on the wave. ${steps ? after : before}`);
    }

    // ---- What the controls do ----------------------------------------------------------
    const tenOf = (wave) => Array.from({ length: 10 }, () => 10 * Math.random() - 5).map((x) => [x, sine(wave, x)]);
    function change(part, words) {
      Object.assign(state, part);
      if (!data) return; // it is shown when they are there
      if (part.points) learn();
      show();
      tell(words);
    }
    const redraw = (wave, words) => data && change({ wave, points: tenOf(wave) }, words);
    const newWave = () => ({ amplitude: 0.1 + 4.9 * Math.random(), phase: 2 * Math.PI * Math.random() });
    kit.button("New wave", () => redraw(newWave(), "A new wave. "));
    kit.button("New points", () => redraw(state.wave, "Ten new points of the same wave. "));
    const first = () => ({ wave: data.wave, points: data.wave.points });
    kit.button("Start again", () => {
      [choice.value, slider.value] = [again.start, again.steps];
      change({ ...again, ...(data && first()) }, "The wave of the page. ");
    });
    const options = NAMES.map((name) => [name, STARTS[name].name]);
    const choice = kit.choice({ label: "start", options, value: again.start, change: (start) => change({ start }) });
    const slider = kit.slider({ label: "inner steps", min: 0, max: LAST, step: 1, value: again.steps, change: (steps) => change({ steps }) });

    const started = kit.load("sine").then((found) => {
      const starts = Object.fromEntries(NAMES.map((name) => [name, Float64Array.from(Reptile.floats(found.starts[name]))]));
      const network = Reptile.mlp(found.sizes, found.activation);
      data = { ...found, starts, network, loss: Reptile.squaredError, optimizer: Reptile.sgd(found.rate) };
      handles = found.wave.points.map((_, i) => {
        const moved = (...to) => change({ points: state.points.map((point, j) => (i === j ? to : point)) });
        return kit.handle(plane, { label: `point ${i + 1}`, x: [-5, 5], y: [-5, 5], radius: 6, moved });
      });
      change(first());
    });
    started.catch((error) => {
      kit.stage.remove(); // the still picture comes back
      figure.classList.remove("moving");
      console.error(error);
    });
  }

  document.addEventListener("DOMContentLoaded", () => Moving.define("wave", wave));
})();
