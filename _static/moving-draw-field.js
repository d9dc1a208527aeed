/* What one draws in, for moving-draw.js: a field for mouse, finger and keys, and how the
network sees a drawing. reptile_book/draw_control.py does the same to the still picture. */

(function () {
  "use strict";
  const SIDE = 105; // of a field, as of Omniglot's drawings
  const RADIUS = 2.6; // of the pen
  const PIXELS = 28; // a side of what the network sees
  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  /** Strokes as the network sees them: 28 x 28 pixels, 0 for ink and 1 for paper.

      A stroke is a list of points [x, y]; ink is what lies within `RADIUS` of it. Of the field's pixels, those nearest to the centres are taken. */
  function raster(strokes) {
    const seen = new Float64Array(PIXELS * PIXELS).fill(1);
    const middle = (i) => Math.floor(((i + 0.5) * SIDE) / PIXELS) + 0.5;
    for (const stroke of strokes) {
      stroke.forEach(([x1, y1], point) => {
        const [x0, y0] = stroke[Math.max(0, point - 1)];
        const [dx, dy] = [x1 - x0, y1 - y0];
        const length = dx * dx + dy * dy;
        for (let pixel = 0; pixel < seen.length; pixel += 1) {
          const [x, y] = [middle(pixel % PIXELS), middle((pixel / PIXELS) | 0)];
          let along = ((x - x0) * dx + (y - y0) * dy) / (length || 1);
          along = Math.min(1, Math.max(0, along));
          const [across, down] = [x - x0 - along * dx, y - y0 - along * dy];
          if (across * across + down * down <= RADIUS * RADIUS) seen[pixel] = 0;
        }
      });
    }
    return seen;
  }

  const within = (value) => Math.min(SIDE, Math.max(0, value));

  /** A field to draw in, by mouse, finger or keys: `begun` at each stroke, `done` after it.
      Returns { strokes, old, show }; the first stroke takes the place of what is `old`. */
  function field(kit, box, { name, title, clears, begun, done }) {
    const holder = kit.html(box, "div");
    kit.html(holder, "div", { class: "moving-title" }, title);
    const keys = "Arrow keys move the pen, space puts it down and lifts it, Delete clears.";
    const svg = kit.draw(holder, "svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, class: "moving-field", tabindex: 0 });
    kit.set(svg, { role: "application", "aria-label": `${title}. ${keys}` });
    kit.draw(svg, "rect", { class: "m-frame", x: 0.5, y: 0.5, width: SIDE - 1, height: SIDE - 1 });
    const pixels = kit.draw(svg, "path", { class: "m-pixels" });
    const ink = kit.draw(svg, "path", { class: "m-line m-ink" });
    const pen = kit.draw(svg, "path", { class: "m-line m-pen" });
    const buttons = kit.html(holder, "div", { class: "moving-buttons" });
    const own = { name, strokes: [], old: false, show };
    let [at, down] = [[SIDE / 2, SIDE / 2], null]; // of the keyboard's pen: where, and since where

    function show() {
      const drawn = down ? [...own.strokes, [down, at]] : own.strokes;
      const line = (stroke) => `M${[stroke[0], ...stroke].map((point) => point.join(" ")).join("L")}`;
      kit.set(ink, { d: drawn.map(line).join("") });
      kit.set(pen, { d: `M${at[0] - 6} ${at[1]}h12M${at[0]} ${at[1] - 6}v12` });
      const seen = raster(own.strokes);
      const size = SIDE / PIXELS;
      const square = (i) => `M${(i % PIXELS) * size} ${((i / PIXELS) | 0) * size}h${size}v${size}h-${size}z`;
      kit.set(pixels, { d: Array.from(seen, (paper, i) => (paper ? "" : square(i))).join("") });
    }
    function begin(stroke) {
      own.strokes = own.old ? [stroke] : [...own.strokes, stroke]; // an example makes room
      own.old = false;
      begun(own);
      show();
    }
    function clear() {
      [own.strokes, own.old, down] = [[], false, null];
      begun(own);
      show();
      done(own);
    }
    kit.html(buttons, "button", { type: "button", click: clear }, clears);

    const place = (event) => {
      const box = svg.getBoundingClientRect();
      const share = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      return share.map((value) => within(SIDE * value));
    };
    // A finger draws, it does not move the page.
    svg.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    kit.set(svg, {
      pointerdown(event) {
        if (event.button !== 0) return;
        svg.setPointerCapture(event.pointerId);
        begin([place(event)]);
      },
      pointermove(event) {
        if (!svg.hasPointerCapture(event.pointerId)) return;
        const [stroke, point] = [own.strokes[own.strokes.length - 1], place(event)];
        const [x, y] = stroke[stroke.length - 1];
        if (Math.hypot(point[0] - x, point[1] - y) >= 1) stroke.push(point);
        show();
      },
      lostpointercapture: () => done(own),
      keydown(event) {
        if (event.altKey || event.ctrlKey || event.metaKey) return;
        const move = MOVES[event.key];
        if (move) {
          const size = event.shiftKey ? 15 : 3;
          at = at.map((value, i) => within(value + size * move[i]));
        } else if (event.key === " " && down) {
          begin([down, at]);
          down = null;
        } else if (event.key === " ") down = at;
        else if (event.key === "Delete" || event.key === "Backspace") clear();
        else return;
        event.preventDefault();
        show();
        const where = `at ${kit.number(at[0], 0)} across, ${kit.number(at[1], 0)} down`;
        if (move || down) kit.say(`Pen ${down ? "down, " : ""}${where}.`);
        else if (event.key === " ") done(own);
      },
      blur() {
        down = null;
        show();
      },
    });
    return own;
  }

  globalThis.Drawing = { raster, field };
  if (typeof module !== "undefined") module.exports = globalThis.Drawing;
})();
