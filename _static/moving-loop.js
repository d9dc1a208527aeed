/* The figures of the preface and of 1.1: Reptile on a plane of two parameters.

The picture is a function of the sliders, the meta-steps done and the inner steps done
after them. So a slider shows at once what another ε, k or α makes of the same meta-steps. */

(function () {
  "use strict";
  const LAST = 24; // meta-steps

  const towards = (from, to, part) => from.map((value, i) => value + part * (to[i] - value));
  const step = (task, at, alpha) => task.gradient(at).map((g, i) => at[i] - alpha * g);

  /** Return the rounds { task, path, phi }; the last, with `inner` steps, has no phi. */
  function run(scene, { epsilon, k, alpha }, done, inner) {
    const rounds = [];
    let phi = scene.start;
    for (let i = 0; i <= done && i < LAST; i += 1) {
      const task = scene.tasks[scene.order[i]];
      const path = [phi];
      for (let j = 0; j < (i < done ? k : inner); j += 1) path.push(step(task, path[j], alpha));
      if (i < done) phi = towards(phi, path[k], epsilon);
      rounds.push({ task, path, phi: i < done ? phi : null });
    }
    return { rounds, phi };
  }

  function loop(kit, scene) {
    const plane = kit.plane(scene);
    const n = kit.number;
    const lines = scene.tasks.map((task) => task.draw(plane, kit.draw.bind(null, plane.svg)));
    plane.axes(...scene.axes);
    const canvas = kit.draw(plane.svg, "g");
    const line = (what, points, more) =>
      kit.draw(canvas, "polyline", { class: `m-line ${what}`, points: points.map(plane.pixels).join(" "), ...more });
    const dot = (what, at, r, more) => {
      const [cx, cy] = plane.pixels(at);
      kit.draw(canvas, "circle", { class: `m-dot ${what}`, cx, cy, r, ...more });
    };

    const settings = { ...scene.settings };
    let [done, inner, part, playing] = [0, 0, 0, false]; // part: of the next move
    let now = run(scene, settings, done, inner);

    function show() {
      now = run(scene, settings, done, inner);
      const { rounds, phi } = now;
      const current = rounds[done];
      canvas.replaceChildren();
      lines.forEach((drawn, i) => {
        drawn.classList.toggle("m-strong", inner + part > 0 && current.task === scene.tasks[i]);
      });
      rounds.forEach(({ task, path, phi: next }, i) => {
        const opacity = i >= rounds.length - scene.tasks.length - 1 ? 1 : 0.35;
        line(`m-thin ${task.colour}`, path, { opacity });
        if (opacity === 1) for (const at of path.slice(1)) dot(task.colour, at, 3.5);
        if (next && opacity === 1) line("m-dotted", [next, path[settings.k]]);
        const moved = next && String(next) !== String(path[0]);
        if (moved) line("m-way", [path[0], next], { opacity, "marker-end": plane.arrow });
      });
      if (done) dot("m-start", scene.start, 3);
      let at = phi;
      const end = current && inner === settings.k ? current.path[inner] : null;
      if (end) {
        line("m-dotted", [phi, end]);
        at = towards(phi, end, part * settings.epsilon);
      } else if (part) {
        const from = current.path[inner];
        dot(current.task.colour, towards(from, step(current.task, from, settings.alpha), part), 3.5);
      }
      if (done) plane.name(canvas, "start", scene.start, [0, 19]);
      dot("m-phi", at, 8);
      const before = rounds[Math.max(0, done - 1)].path[0];
      const [dx, dy] = plane.direction(end ? at : before, end || at);
      plane.name(canvas, "φ", at, end ? [-20 * dx, -20 * dy] : [20 * Math.abs(dy), dx > 0 ? 20 * dx : -20 * dx]);
      if (end) plane.name(canvas, "φ̃", end, [20 * dx, 20 * dy]);
      one.disabled = next.disabled = done === LAST;
      play.textContent = playing ? "Pause" : "Play";
    }

    const outside = (at) => (plane.inside(...at) ? "" : " That is outside the picture.");
    const change = (task, path, i, j) =>
      `${scene.left(n(task.left(path[j])))}, before ${n(task.left(path[i]))}.${outside(path[j])}`;
    function place() {
      if (!plane.inside(...now.phi)) return `φ has left the picture: α = ${n(settings.alpha)} is too large.`;
      return scene.place(scene.tasks.map((task) => n(task.left(now.phi))), now.phi.map((v) => n(v)));
    }
    function kept() {
      if (settings.epsilon === 0) return "nothing is kept of an inner loop; φ stays.";
      if (settings.epsilon === 1) return "φ jumps all the way to φ̃, and so runs from task to task.";
      return `φ goes ${n(settings.epsilon)} of the way to φ̃; the rest of the inner loop is forgotten.`;
    }
    function lastLoop() {
      const { task, path } = now.rounds[inner || !done ? done : done - 1];
      if (!path[1]) return "take a step to see what it does.";
      return `the last inner loop, on task ${task.name}: ${change(task, path, 0, path.length - 1)}`;
    }
    function way(alpha) {
      const [can, target] = scene.beyond;
      if (alpha > 2) return `close to ${target}, an inner step ${can[1]} farther from it than it began`;
      return alpha > 1 ? `an inner step ${can[0]} too far, beyond ${target}` : scene.way(n(alpha));
    }
    function afterOuter() {
      if (done < LAST || !settings.epsilon) return `Meta-step ${done}: ${kept()} ${place()}`;
      const hops = now.rounds.slice(-6).map(({ path, phi }) => Math.hypot(phi[0] - path[0][0], phi[1] - path[0][1]));
      const largest = n(Math.max(...hops));
      return `${LAST} meta-steps: φ goes on hopping, lately by up to ${largest}. A smaller ε makes smaller hops, and needs more of them. ${place()}`;
    }

    const ticker = kit.ticker((passed) => {
      const lasts = inner < settings.k ? [450, 220, 90] : [1500, 800, 320];
      part += passed / lasts[Math.min(done, 2)]; // the first meta-steps are slow
      if (part >= 1) move();
      else if (!kit.calm) show();
    });
    function go(plays) {
      playing = plays;
      if (plays || !kit.calm) ticker.start();
      else move();
    }
    function stop() {
      [playing, part] = [false, 0];
      ticker.stop();
    }
    function move() {
      const outer = inner === settings.k;
      [done, inner, part] = outer ? [done + 1, 0, 0] : [done, inner + 1, 0];
      const quiet = playing && done < LAST;
      if (!quiet) stop();
      show();
      const { task, path } = now.rounds[Math.min(done, LAST - 1)];
      const end = inner === settings.k ? " The inner loop ends here, at φ̃." : "";
      const steps = `Inner step ${inner} of ${settings.k} on task ${task.name}: `;
      kit.say(outer ? afterOuter() : steps + change(task, path, inner - 1, inner) + end, quiet);
    }

    const play = kit.button("Play", () => {
      if (playing) stop();
      else {
        if (done === LAST) done = 0;
        go(true);
      }
      show();
    });
    const one = kit.button("One step", () => {
      if (part) move(); // a second press does not wait for the first
      if (done < LAST) go(false);
      show();
    });
    const next = kit.button("Next task", () => {
      if (part && inner === settings.k) move();
      if (done === LAST) return;
      [inner, part] = [settings.k, 0];
      show();
      go(playing);
    });
    kit.button("Start again", () => {
      stop();
      [done, inner] = [0, 0];
      show();
      kit.say(`φ is at the start. ${place()}`);
    });
    function slider(key, label, range, text, words) {
      const change = (value) => {
        settings[key] = value;
        [inner, part] = [Math.min(inner, settings.k), 0];
        show();
        kit.say(`${label[0]} = ${text(value)}: ${words(value)} After ${done} meta-steps ${place()}`);
      };
      kit.slider({ label, ...range, value: settings[key], text, change });
    }
    slider("epsilon", "ε, part kept", { min: 0, max: 1, step: 0.05 }, n, kept);
    slider("k", "k, inner steps", { min: 1, max: 20, step: 1 }, String, lastLoop);
    slider("alpha", "α, step size", { min: 0.05, max: 2.4, step: 0.05 }, n, (alpha) => `${way(alpha)}; ${lastLoop()}`);

    if (!scene.plays || kit.calm) done = scene.shown;
    show();
    kit.say(done ? `${done} meta-steps are done. ${place()}` : place(), !done);
    if (!done) go(true);
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const [name, scene] of Object.entries(LoopScenes)) Moving.define(name, (kit) => loop(kit, scene));
  });
})();
