/* The figure of 5.1: three characters are drawn, the book adapts to them, and says which
of them a fourth is.

φ is recorded (reptile_book/weights.py); the inner steps are taken here (reptile.js), in a
worker, so that the page stays awake. moving-draw-field.js is what one draws in; the still
picture is drawn by reptile_book/draw_control.py. */

(function () {
  "use strict";
  const NAMES = ["A", "B", "C"];
  const COLOURS = ["blue", "orange", "green"];
  const UNASKED = "No answer yet"; // what the bars tell those who hear them

  /** Adapt φ to one picture per class. It is sent to a worker as text, with the engine. */
  function adapt(engine, { ways, filters, rate, steps, phi }, x, watch) {
    const network = engine.conv4(ways, { filters });
    const task = { x, y: Array.from({ length: ways }, (_, i) => i), count: ways };
    const how = { optimizer: engine.adam(rate), loss: engine.crossEntropy, steps, watch };
    return engine.innerLoop(network, phi, task, how).theta;
  }

  /** What the file of weights tells, ready for use. */
  const prepared = (data) => ({
    ...data,
    phi: Reptile.floats(data.phi),
    network: Reptile.conv4(data.ways, { filters: data.filters }),
  });

  /** The probability of each class for one picture, asked alone. */
  function chances({ network, ways }, theta, x, query) {
    const logits = Reptile.answers(network, theta, { x, count: ways }, { x: query, count: 1 }, "kept");
    const each = Array.from(logits, (logit) => Math.exp(logit - Math.max(...logits)));
    return each.map((value) => value / each.reduce((sum, one) => sum + one));
  }

  const percent = (p) => (p >= 0.995 ? "over 99 %" : p < 0.005 ? "under 1 %" : `${Math.round(100 * p)} %`);

  function draw(kit, figure) {
    const box = kit.html(kit.pictures, "div", { class: "moving-fields" });
    const begun = (own) => (own === query ? wake() : stop());
    const done = (own) => (own === query ? answer() : learn());
    const examples = NAMES.map((name) => Drawing.field(kit, box, { name, title: `Character ${name}`, clears: `Clear ${name}`, begun, done }));
    const query = Drawing.field(kit, box, { name: "?", title: "Which one?", clears: "Clear", begun, done });
    const chart = kit.draw(kit.pictures, "svg", { viewBox: "0 0 420 100", class: "moving-bars", role: "img" });
    kit.set(chart, { "aria-label": UNASKED });
    const bars = NAMES.map((name, i) => {
      const [y, x] = [33 * i, 30];
      kit.draw(chart, "text", { class: COLOURS[i], x: 6, y: y + 22 }, name);
      return [kit.draw(chart, "rect", { class: `m-dot ${COLOURS[i]}`, x, y: y + 6, height: 22 }), kit.draw(chart, "text", { y: y + 22 })];
    });
    const row = kit.html(kit.sliders, "div", { class: "moving-slider" });
    kit.html(row, "label", { for: "moving-draw-steps" }, "inner steps");
    const progress = kit.html(row, "progress", { id: "moving-draw-steps", value: 0 });
    const counted = kit.html(row, "output", { for: "moving-draw-steps" });

    let learner = null; // arrives when the figure is seen or touched
    let [worker, address, theta, x, taken] = [null, "", null, null, 0];

    function stop() {
      if (worker) worker.terminate();
      [worker, theta] = [null, null];
      bar(0);
      wake();
    }
    function bar(step) {
      taken = step;
      kit.set(progress, { value: step, max: learner ? learner.steps : 1 });
      counted.textContent = String(step);
    }
    const finished = () => theta && taken === learner.steps;

    /** Adapt to the three examples, if they are there. */
    function learn(quiet = false) {
      if (!learner) return;
      stop();
      x = Float32Array.from(examples.flatMap((own) => [...Drawing.raster(own.strokes)]));
      if (examples.some((own) => !own.strokes.length)) return answer(quiet);
      if (!quiet) kit.say("Adapting to A, B and C …");
      const step = (number, now) => {
        theta = now;
        bar(number);
        if (finished()) mine.terminate(); // it has nothing more to do
        if (finished() || !kit.calm) answer(quiet);
      };
      address = address || URL.createObjectURL(new Blob([`${Reptile.source};(${work})(${adapt})`]));
      const mine = (worker = new Worker(address));
      mine.onmessage = ({ data }) => mine === worker && step(...data);
      mine.onerror = () => mine === worker && adapt(Reptile, learner, x, step); // without one
      const { network, ...sent } = learner;
      mine.postMessage([sent, x]);
    }

    /** Show what the network makes of the fourth drawing; say so when it is adapted. */
    function answer(quiet = false) {
      const asked = theta && query.strokes.length;
      const found = asked ? chances(learner, theta, x, Drawing.raster(query.strokes)) : NAMES.map(() => 0);
      bars.forEach(([rect, text], i) => {
        kit.set(rect, { width: 300 * found[i] });
        kit.set(text, { x: 38 + 300 * found[i] });
        text.textContent = asked ? percent(found[i]) : "";
      });
      const told = NAMES.map((name, i) => `${name} ${percent(found[i])}`).join(", ");
      kit.set(chart, { "aria-label": asked ? `Probabilities: ${told}` : UNASKED });
      const missing = examples.filter((own) => !own.strokes.length).map((own) => own.name);
      if (missing.length) return kit.say(`Draw ${missing.join(" and ")}.`, quiet);
      if (!finished()) return;
      const best = found.indexOf(Math.max(...found));
      const says = `It looks like ${NAMES[best]} (${percent(found[best])}). All: ${told}.`;
      const more = "Draw one of the three, once more, in the fourth field.";
      const how = quiet ? " Draw others in any field: with mouse, finger, or keys (arrows, space)." : "";
      kit.say((asked ? says : more) + how, quiet);
    }

    function begin(quiet) {
      [...examples, query].forEach((own, i) => {
        if (own.strokes.length && quiet) return; // drawn while the file was on its way
        Object.assign(own, { strokes: learner.drawn[i], old: true });
        own.show();
      });
      learn(quiet);
    }
    let woken = null;
    function wake() {
      woken = woken || kit.load("draw").then((found) => ((learner = prepared(found)), begin(true)));
      return woken.catch((error) => {
        kit.stage.remove(); // the still picture comes back
        figure.classList.remove("moving");
        console.error(error);
      });
    }
    kit.button("Start again", () => wake().then(() => begin(false)));
    new IntersectionObserver((entries) => entries.some((one) => one.isIntersecting) && wake()).observe(box);
  }

  /** What runs in the worker: it tells of the steps, but not more than ten times. */
  function work(adapting) {
    self.onmessage = ({ data: [learner, x] }) =>
      adapting(self.Reptile, learner, x, (step, theta) => {
        const told = step % Math.ceil(learner.steps / 10) === 0 || step === learner.steps;
        if (told) self.postMessage([step, theta]);
      });
  }

  if (typeof module !== "undefined") module.exports = { adapt, prepared, chances };
  else document.addEventListener("DOMContentLoaded", () => Moving.define("draw", draw));
})();
