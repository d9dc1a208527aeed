/* The figure of 3.3: where φ comes to rest on three bowls that can be dragged.

A bowl is L(θ) = ½ (θ − w)ᵀ H (θ − w). Four places are means of the minima w, each weighed
by a function of its H. The still picture is drawn by reptile_book/rest_control.py. */

(function () {
  "use strict";
  const LAST_K = 60;
  const ACROSS = [-1.9, 3.1];
  const UP = [-2.6, 2.7];
  const HEIGHTS = [0.04, 0.16]; // contours of a bowl
  const BOWLS = [
    { name: "A", colour: "blue", w: [2.0, 1.0], H: [1.8, 0.4, 0.5] }, // H: xx, xy, yy
    { name: "B", colour: "red", w: [-1.0, 2.0], H: [0.3, 0.0, 1.0] },
    { name: "C", colour: "green", w: [0.5, -2.0], H: [0.5, -0.2, 0.4] },
  ];

  /** The curvatures of a bowl, and the direction [cos, sin] of the first one. */
  function axes([xx, xy, yy]) {
    const [middle, spread] = [(xx + yy) / 2, Math.hypot((xx - yy) / 2, xy)];
    const turn = Math.atan2(2 * xy, xx - yy) / 2;
    return { h: [middle + spread, middle - spread], turn, c: Math.cos(turn), s: Math.sin(turn) };
  }
  for (const bowl of BOWLS) Object.assign(bowl, axes(bowl.H));

  /** The matrix f(H), which does to each curvature what f does to a number. */
  function matrix(f, { h, c, s }) {
    const [a, b] = h.map(f);
    return [a * c * c + b * s * s, (a - b) * c * s, a * s * s + b * c * c];
  }
  const times = ([xx, xy, yy], [x, y]) => [xx * x + xy * y, xy * x + yy * y];

  /** The mean of the minima, each weighed by f(H): (Σ f(H))⁻¹ Σ f(H) w. */
  function mean(f, minima) {
    const [weights, pull] = [[0, 0, 0], [0, 0]];
    BOWLS.forEach((bowl, i) => {
      const weight = matrix(f, bowl);
      weight.forEach((value, j) => (weights[j] += value));
      times(weight, minima[i]).forEach((value, j) => (pull[j] += value));
    });
    const [xx, xy, yy] = weights;
    return times([yy, -xy, xx], pull).map((value) => value / (xx * yy - xy * xy));
  }

  const left = (alpha, k) => (h) => (1 - alpha * h) ** k; // of the distance, after k steps
  const way = (alpha, k) => (h) => 1 - left(alpha, k)(h);
  const places = (minima, alpha, k) => ({
    joint: mean((h) => h, minima),
    rest: mean(way(alpha, k), minima),
    best: mean((h) => h * left(alpha, k)(h) ** 2, minima),
    middle: mean(() => 1, minima),
  });

  /** The average loss after k steps from phi. */
  function lossAfter(phi, minima, alpha, k) {
    const each = BOWLS.map((bowl, i) => {
      const away = [phi[0] - minima[i][0], phi[1] - minima[i][1]];
      const pull = times(matrix((h) => h * left(alpha, k)(h) ** 2, bowl), away);
      return (away[0] * pull[0] + away[1] * pull[1]) / 2;
    });
    return each.reduce((sum, loss) => sum + loss) / each.length;
  }

  /** Where algorithm 1 ends: 1,000 meta-steps on tasks drawn at random, ε falling to 0. */
  function algorithm1(minima, alpha, k) {
    const ways = BOWLS.map((bowl) => matrix(way(alpha, k), bowl));
    let [phi, drawn] = [[0, 0], 1];
    for (let step = 0; step < 1000; step += 1) {
      drawn = (48271 * drawn) % 2147483647; // Park and Miller's random numbers
      const task = drawn % 3;
      const towards = times(ways[task], [minima[task][0] - phi[0], minima[task][1] - phi[1]]);
      phi = phi.map((value, i) => value + (1 - step / 1000) * towards[i]);
    }
    return phi;
  }

  function rest(kit) {
    const n = kit.number;
    const label = "Two weights; three bowls whose minima can be moved, and where phi rests";
    const plane = kit.plane({ x: ACROSS, y: UP, width: 440, label });
    plane.axes("first weight", "second weight");
    const rims = kit.draw(plane.svg, "g");
    const canvas = kit.draw(plane.svg, "g");
    const minima = BOWLS.map(({ w }) => w);
    kit.legend([
      ["▲", "orange", "minimum of the average loss (k = 1)"],
      ["■", "pink", "mean of the minima (k → ∞)"],
      ["●", "", "φ* for k = 1, 2, 3, …"],
      ["○", "red", "where algorithm 1 ends"],
    ]);

    function show() {
      const [a, many] = [alpha.value, k.value];
      const at = places(minima, a, many);
      rims.replaceChildren();
      canvas.replaceChildren();
      BOWLS.forEach(({ colour, h, turn }, i) => {
        const [x, y] = plane.pixels(minima[i]);
        for (const height of HEIGHTS) {
          const [rx, ry] = h.map((curvature) => plane.x(Math.sqrt((2 * height) / curvature)) - plane.x(0));
          const transform = `translate(${x} ${y}) rotate(${(-180 / Math.PI) * turn})`;
          kit.draw(rims, "ellipse", { class: `m-line ${colour}`, rx, ry, transform, opacity: 0.75 });
        }
        handles[i].move(...minima[i]);
      });
      const dot = (kind, point, r) => {
        const [cx, cy] = plane.pixels(point);
        kit.draw(canvas, "circle", { class: kind, cx, cy, r });
      };
      const sign = (text, colour, point) => {
        const [x, y] = plane.pixels(point);
        kit.draw(canvas, "text", { class: `m-sign ${colour}`, x, y: y + 6, "text-anchor": "middle" }, text);
      };
      for (let each = 1; each <= LAST_K; each += 1) dot("m-dot m-walk", mean(way(a, each), minima), 2.5);
      sign("▲", "orange", at.joint);
      sign("■", "pink", at.middle);
      dot("m-ring red m-end", algorithm1(minima, a, many), 10);
      dot("m-dot m-rest", at.rest, 6);
      plane.name(canvas, `k = ${many}`, at.rest, [34, 14]);
      return at;
    }

    function tell(what) {
      const at = show();
      const [a, many] = [alpha.value, k.value];
      const far = (point) => Math.hypot(at.rest[0] - point[0], at.rest[1] - point[1]);
      const after = (point) => {
        const loss = lossAfter(point, minima, a, many);
        return loss < 0.001 ? "below 0.001" : n(loss, 3);
      };
      const steps = many === 1 ? "one step" : `${many} steps`;
      kit.say(
        `${what}: φ* = (${n(at.rest[0])}, ${n(at.rest[1])}), ${n(far(at.joint))} from the minimum of the average loss` +
          ` and ${n(far(at.middle))} from the mean of the minima. Average loss after ${steps}: ${after(at.rest)} from φ*,` +
          ` ${after(at.joint)} from the minimum of the average loss, ${after(at.best)} from the best start.`,
      );
    }

    const reach = ([low, high]) => [low + 0.3, high - 0.3];
    const handles = BOWLS.map(({ name, colour }, i) => {
      const moved = (x, y) => {
        minima[i] = [x, y];
        tell(`${name} is at (${n(x)}, ${n(y)})`);
      };
      const handle = kit.handle(plane, { label: `minimum of bowl ${name}`, x: reach(ACROSS), y: reach(UP), colour, moved });
      kit.draw(handle.element, "text", { class: "m-letter", y: 5, "text-anchor": "middle" }, name);
      return handle;
    });
    plane.svg.append(canvas); // above the handles, which it lets through
    const slider = (symbol, words, range, text) =>
      kit.slider({ label: `${symbol}, ${words}`, ...range, text, change: (value) => tell(`${symbol} = ${text(value)}`) });
    const k = slider("k", "inner steps", { min: 1, max: LAST_K, step: 1, value: 5 }, String);
    const alpha = slider("α", "step size", { min: 0.05, max: 1, step: 0.05, value: 0.5 }, n);
    kit.button("Start again", () => {
      [k.value, alpha.value] = [5, 0.5];
      BOWLS.forEach(({ w }, i) => (minima[i] = w));
      tell("As in the beginning");
    });
    tell("k = 5");
  }

  document.addEventListener("DOMContentLoaded", () => Moving.define("rest", rest));
})();
