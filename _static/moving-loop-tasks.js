/* What moving-loop.js shows: the arcs of the preface and the bowls of 1.1.

The still pictures come from the same numbers, by reptile_book/animation.py (arcs) and
loop_control.py (bowls). A task has `left`, which says how far from solved a point is, a
gradient, and draw, which returns what is drawn thick while the task is trained on. */

(function () {
  "use strict";

  /** A task that every point of an arc solves; the loss is ½ (distance from it)². */
  const arc = (name, colour, [x, y, r], dashes, [right, up]) => ({
    name,
    colour,
    left: (at) => Math.abs(Math.hypot(at[0] - x, at[1] - y) - r),
    gradient(at) {
      const away = Math.hypot(at[0] - x, at[1] - y) || 1; // the centre pulls nowhere
      return [at[0] - x, at[1] - y].map((side) => (side * (away - r)) / away);
    },
    draw(plane, draw) {
      draw("text", { class: colour, x: plane.x(right), y: plane.y(up) }, `task ${name}`);
      const place = { cx: plane.x(x), cy: plane.y(y), r: plane.x(r) - plane.x(0) };
      return draw("circle", { class: `m-line ${colour}`, "stroke-dasharray": dashes, ...place });
    },
  });

  /** A task with one solution and curvatures h and v; its loss is a bowl. */
  const bowl = (name, colour, [x, y], [h, v]) => ({
    name,
    colour,
    left: (at) => (h * (at[0] - x) ** 2 + v * (at[1] - y) ** 2) / 2,
    gradient: (at) => [h * (at[0] - x), v * (at[1] - y)],
    draw(plane, draw) {
      const place = { class: colour, x: plane.x(x), y: plane.y(y), "text-anchor": "middle" };
      draw("text", { ...place, dy: 24 }, `task ${name}`);
      return draw("text", { ...place, dy: 8, class: `m-star ${colour}` }, "★");
    },
  });

  globalThis.LoopScenes = {
    arcs: {
      label: "Two parameters. Every point of an arc solves that arc's task.",
      x: [0, 10],
      y: [0.3, 6.6],
      width: 520,
      axes: ["parameter 1", "parameter 2"],
      tasks: [
        arc("A", "blue", [4.9, 12.9, 9.0], null, [0.25, 4.15]),
        arc("B", "orange", [13.3, 1.0, 7.0], "14 5", [7.0, 3.0]),
        arc("C", "green", [0.1, -1.6, 7.5], "10 4 2 4", [0.25, 6.08]),
      ],
      order: "120011202102022112010220", // as the library draws them
      start: [1.2, 1.0],
      settings: { epsilon: 0.5, k: 5, alpha: 0.35 },
      shown: 8,
      plays: true,
      left: (text) => `${text} from its arc`,
      way: (text) => `an inner step goes ${text} of the way to the arc`,
      beyond: [["goes", "ends"], "the arc"],
      place: ([a, b, c]) => `φ is ${a} from arc A, ${b} from B and ${c} from C.`,
    },
    bowls: {
      label: "Two weights. Each of four tasks is a bowl with its solution at a star.",
      x: [-0.3, 3.5],
      y: [-0.4, 3.0],
      width: 500,
      axes: ["first weight", "second weight"],
      tasks: [
        bowl("1", "blue", [0.7, 2.5], [1.0, 0.15]),
        bowl("2", "orange", [3.1, 0.9], [0.2, 1.0]),
        bowl("3", "green", [2.7, 2.6], [1.0, 0.3]),
        bowl("4", "red", [0.3, 1.7], [0.9, 0.3]),
      ],
      order: "012301230123012301230123", // in turn
      start: [0, 0],
      settings: { epsilon: 0.4, k: 6, alpha: 0.45 },
      shown: 4,
      plays: false,
      left: (text) => `loss ${text}`,
      way: (text) => `an inner step goes up to ${text} of the way to the star`,
      beyond: [["can go", "can end"], "the star"],
      place: (_, [first, second]) => `φ is at (${first}, ${second}).`,
    },
  };
})();
