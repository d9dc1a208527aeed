/* The kit of the figures that move.

A figure of the book is a still picture with a caption. One whose class is moving-NAME
moves where scripts run: the script of that figure calls

    document.addEventListener("DOMContentLoaded", () =>
      Moving.define("NAME", (kit, figure) => { ... }));

(the scripts of a page come in no promised order; at that moment all are there). The
kit hides the still picture, which paper and readers without scripts keep, and puts a
stage in its place: a drawing, controls, and a line that says what happened. Controls
are a browser's own, so that mouse, touch and keyboard work without a line of code. */

(function () {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const arrived = {}; // what files of weights have brought, by name
  const asked = {}; // promises of those that are on their way
  let count = 0; // of labels, whose ids must differ

  /** Add an element to its parent; attributes that are functions are listeners. */
  function put(element, parent, attributes, text) {
    set(element, attributes);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  /** Set attributes; one that is null or false is taken away. */
  function set(element, attributes) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value === null || value === false) element.removeAttribute(name);
      else element.setAttribute(name, value === true ? "" : value);
    }
    return element;
  }

  const html = (parent, tag, attributes, text) =>
    put(document.createElement(tag), parent, attributes, text);
  const draw = (parent, tag, attributes, text) =>
    put(document.createElementNS(SVG, tag), parent, attributes, text);

  /** Write a number for readers: two digits after the point, and a true minus. */
  function number(value, digits = 2) {
    if (!Number.isFinite(value)) return "beyond all numbers";
    const text = value.toFixed(digits);
    return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
  }

  const clamp = (value, [least, most]) => Math.min(most, Math.max(least, value));

  /** What the script of one figure is given. */
  class Kit {
    constructor(figure) {
      this.figure = figure;
      this.answered = -Infinity; // when the reader last did something
      this.stage = document.createElement("div");
      this.stage.className = "moving-stage";
      figure.insertBefore(this.stage, figure.querySelector("figcaption"));
      this.pictures = html(this.stage, "div", { class: "moving-pictures" });
      this.buttons = html(this.stage, "div", { class: "moving-buttons" });
      this.sliders = html(this.stage, "div", { class: "moving-sliders" });
      this.words = html(this.stage, "p", { class: "moving-words", "aria-live": "polite" });
    }

    /** Whether the reader asks for less motion: jump instead of gliding. */
    get calm() {
      return matchMedia("(prefers-reduced-motion: reduce)").matches;
    }

    /** Say in words what happened. `quiet` is for what comes by itself: it is not read
        out, and for a while does not take the place of an answer to the reader. */
    say(text, quiet = false) {
      if (quiet && performance.now() < this.answered + 4000) return;
      if (!quiet) this.answered = performance.now();
      this.words.setAttribute("aria-live", quiet ? "off" : "polite");
      if (this.words.textContent !== text) this.words.textContent = text;
    }

    /** Add a plane of coordinates to draw on.

        x and y are the ranges shown, y growing upwards; width is that of full size, in
        pixels. Of what it returns, x, y and pixels turn coordinates into pixels, at
        gives the coordinates of a pointer, name writes letters beside a point. */
    plane({ x, y, width = 560, height, label }) {
      height = height || Math.round((width * (y[1] - y[0])) / (x[1] - x[0]));
      const svg = draw(this.pictures, "svg", {
        viewBox: `0 0 ${width} ${height}`,
        style: `max-width: ${width}px`,
        role: "img", // handle() makes it a group
        "aria-label": label,
      });
      const arrow = `moving-${(count += 1)}`; // for "marker-end": plane.arrow
      const marker = { id: arrow, viewBox: "0 0 8 8", refX: 7, refY: 4, orient: "auto" };
      const size = { markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse" };
      const head = draw(draw(svg, "defs"), "marker", { ...marker, ...size });
      draw(head, "path", { class: "m-head", d: "M0 0 8 4 0 8Z" });
      draw(svg, "rect", { class: "m-frame", x: 0.5, y: 0.5, width: width - 1, height: height - 1 });
      const pixel = (value, [low, high], size) => clamp(((value - low) / (high - low)) * size, [-1e5, 1e5]);
      const plane = {
        svg,
        width,
        height,
        arrow: `url(#${arrow})`,
        x: (value) => pixel(value, x, width),
        y: (value) => height - pixel(value, y, height),
        pixels: ([a, b]) => [plane.x(a), plane.y(b)],
        inside: (a, b) => a >= x[0] && a <= x[1] && b >= y[0] && b <= y[1],
        /** From one point to another on the screen, of length 1; 0 if they are one. */
        direction(from, to) {
          const [dx, dy] = plane.pixels(to).map((value, i) => value - plane.pixels(from)[i]);
          const length = Math.hypot(dx, dy) || 1;
          return [dx / length, dy / length];
        },
        at(event) {
          const box = svg.getBoundingClientRect();
          const across = (event.clientX - box.left) / box.width;
          const up = (box.bottom - event.clientY) / box.height;
          return [x[0] + across * (x[1] - x[0]), y[0] + up * (y[1] - y[0])];
        },
        /** Name a point; `shift` pixels from it, and never across the frame. */
        name(parent, text, point, shift, colour = "") {
          if (!plane.inside(...point)) return;
          const [a, b] = plane.pixels(point).map((value, i) => value + shift[i]);
          const place = { x: clamp(a, [22, width - 22]), y: clamp(b, [14, height - 14]) + 5 };
          draw(parent, "text", { class: colour, "text-anchor": "middle", ...place }, text);
        },
        /** Name both axes. */
        axes(across, upwards) {
          const corner = { x: width - 9, y: height - 10, "text-anchor": "end" };
          draw(svg, "text", { class: "faint", ...corner }, across);
          const turned = `translate(20 ${height / 2 + 60}) rotate(-90)`;
          draw(svg, "text", { class: "faint", transform: turned }, upwards);
        },
      };
      return plane;
    }

    /** Say what signs mean, below the drawing: [sign, colour, words]. */
    legend(entries) {
      const list = html(this.pictures, "ul", { class: "moving-legend" });
      for (const [sign, colour, words] of entries) {
        const entry = html(list, "li", {});
        html(entry, "span", { class: colour, "aria-hidden": "true" }, sign);
        entry.append(` ${words}`);
      }
    }

    /** Add a button. */
    button(text, action) {
      return html(this.buttons, "button", { type: "button", click: action }, text);
    }

    /** Add a slider. Returns { value, input }; value can be set, which calls nothing.

        text(value) is what stands beside it and is read out. */
    slider({ label, min, max, step, value, text = String, change }) {
      const id = `moving-${(count += 1)}`;
      const row = html(this.sliders, "div", { class: "moving-slider" });
      html(row, "label", { for: id }, label);
      const input = html(row, "input", { type: "range", id, min, max, step });
      const output = html(row, "output", { for: id });
      const show = () => {
        output.textContent = text(Number(input.value));
        input.setAttribute("aria-valuetext", output.textContent);
      };
      input.value = value;
      show();
      input.addEventListener("input", () => {
        show();
        change(Number(input.value));
      });
      return {
        input,
        get value() {
          return Number(input.value);
        },
        set value(chosen) {
          input.value = chosen;
          show();
        },
      };
    }

    /** Add a group of radio buttons; options are [value, text]. Returns { value }. */
    choice({ label, options, value, change }) {
      const name = `moving-${(count += 1)}`;
      const group = html(this.sliders, "fieldset", { class: "moving-choice" });
      html(group, "legend", {}, label);
      const inputs = options.map(([option, text]) => {
        const holder = html(group, "label", {});
        const input = html(holder, "input", { type: "radio", name, value: option });
        input.checked = option === value;
        input.addEventListener("change", () => change(option));
        holder.append(text);
        return input;
      });
      return {
        get value() {
          return inputs.find((input) => input.checked).value;
        },
        set value(option) {
          for (const input of inputs) input.checked = input.value === option;
        },
      };
    }

    /** Add a point that can be dragged, or moved with the arrow keys.

        x and y are the ranges that it may move in; one of no width (y: [2, 2]) keeps
        it on a line. `moved(x, y)` is called with where the reader wants it. Returns
        { element, move(x, y) }, and is drawn only where move() puts it. */
    handle(plane, { label, x, y, step = 0.1, colour = "", radius = 9, moved }) {
      const element = draw(plane.svg, "g", {
        class: `moving-handle ${colour}`,
        tabindex: 0,
        role: "slider",
        "aria-label": label,
        "aria-valuemin": x[0] < x[1] ? x[0] : y[0],
        "aria-valuemax": x[0] < x[1] ? x[1] : y[1],
      });
      // A finger needs more room than the dot takes.
      draw(element, "circle", { class: "m-room", r: Math.max(18, radius) });
      draw(element, "circle", { class: "m-dot", r: radius });
      // A finger on it drags the point, not the page: touch-action does not suffice, as
      // browsers differ on whether parts of a drawing have one.
      element.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
      plane.svg.setAttribute("role", "group");
      let at = [0, 0];
      let grip = [0, 0]; // from the pointer to the point
      const want = (a, b) => moved(clamp(a, x), clamp(b, y));
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
      set(element, {
        keydown(event) {
          const move = moves[event.key];
          if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
          event.preventDefault();
          const size = event.shiftKey ? 5 * step : step;
          want(at[0] + size * move[0], at[1] + size * move[1]);
        },
        pointerdown(event) {
          if (event.button !== 0) return;
          element.setPointerCapture(event.pointerId);
          grip = plane.at(event).map((value, i) => at[i] - value);
          element.focus({ preventScroll: true });
          event.preventDefault();
        },
        pointermove(event) {
          if (!element.hasPointerCapture(event.pointerId)) return;
          const [a, b] = plane.at(event);
          want(a + grip[0], b + grip[1]);
        },
      });
      return {
        element,
        move(a, b) {
          at = [a, b];
          const spoken = [];
          if (x[0] < x[1]) spoken.push(`${number(a)} across`);
          if (y[0] < y[1]) spoken.push(`${number(b)} up`);
          set(element, {
            transform: `translate(${plane.x(a)} ${plane.y(b)})`,
            "aria-valuenow": x[0] < x[1] ? a : b,
            "aria-valuetext": spoken.join(", "),
          });
        },
      };
    }

    /** Return { start(), stop() }: while it runs and can be seen,
        tick(milliseconds since the last one) is called before each frame. */
    ticker(tick) {
      let wanted = false;
      let seen = false;
      let frame = 0;
      let last;
      const go = (now) => {
        frame = requestAnimationFrame(go);
        const passed = Math.min(now - (last === undefined ? now : last), 100);
        last = now;
        tick(passed);
      };
      const update = () => {
        if (wanted && seen && !frame) {
          last = undefined;
          frame = requestAnimationFrame(go);
        } else if (frame && !(wanted && seen)) {
          cancelAnimationFrame(frame);
          frame = 0;
        }
      };
      new IntersectionObserver((entries) => {
        seen = entries[entries.length - 1].isIntersecting;
        update();
      }).observe(this.pictures);
      return {
        start: () => ((wanted = true), update()),
        stop: () => ((wanted = false), update()),
      };
    }

    /** Load weights/NAME.js, which calls Moving.data; returns a promise of its data. */
    load(name) {
      asked[name] =
        asked[name] ||
        new Promise((done, failed) => {
          const root = document.documentElement.dataset.content_root || "./";
          const script = document.createElement("script");
          script.src = `${root}weights/${name}.js`;
          script.onload = () => (name in arrived ? done(arrived[name]) : script.onerror());
          script.onerror = () => failed(new Error(`${script.src} cannot be read`));
          document.head.append(script);
        });
      return asked[name];
    }
  }

  Object.assign(Kit.prototype, { html, draw, set, number });

  globalThis.Moving = {
    /** Make the figures of the class moving-NAME move: make(kit, figure). */
    define(name, make) {
      for (const figure of document.querySelectorAll(`figure.moving-${name}`)) {
        const kit = new Kit(figure);
        try {
          make(kit, figure);
          figure.classList.add("moving");
        } catch (error) {
          kit.stage.remove(); // the still picture stays
          console.error(error);
        }
      }
    },

    /** Called by the files of weights. */
    data(name, values) {
      arrived[name] = values;
    },
  };
})();
