/* Reptile in plain JavaScript: small networks, their gradients, inner and outer steps.

   The figures of this book that learn in front of you compute with this file. It draws
   nothing, and knows numbers only. All parameters of a network are one vector, theta, in
   the order of `reptile_lib`, so that vectors trained there are used here as they are:

       const network = Reptile.mlp([1, 64, 64, 1], "tanh");
       const task = { x: [...], y: [...], count: 10 };
       const how = { optimizer: Reptile.sgd(0.02), loss: Reptile.squaredError, steps: 8 };
       const { theta } = Reptile.innerLoop(network, phi, task, how);
       phi = Reptile.outerStep(phi, [theta], 0.1);

   Vectors are Float32Array or Float64Array; what is computed has the type of theta. */

(function engine(root) {
  "use strict";

  /* ---- Matrices -----------------------------------------------------------------
     A matrix is a view of an array: entry (i, j) is data[start + i * down + j * right].
     Turning it on its side costs nothing. */

  function matrix(data, rows, columns, start = 0, down = columns, right = 1) {
    return { data, start, rows, columns, down, right };
  }

  function transposed({ data, start, rows, columns, down, right }) {
    return matrix(data, columns, rows, start, right, down);
  }

  /* An array that `owner` keeps, so that a step allocates nothing: of the type of
     `like`, and at least this long. What it holds is left over from its last use. */
  function room(owner, name, length, like) {
    const kept = owner[name];
    const fits = kept && kept.length >= length && kept.constructor === like.constructor;
    return fits ? kept : (owner[name] = new like.constructor(length));
  }

  /* c = a b. It is nearly all the time that a network takes, so it is done in tiles of
     4 x 2: eight sums at once from six numbers read. What a tile reads is laid out in
     its order beforehand. A tile that reaches over the edge repeats the last row or
     column. */
  const packed = {}, double = new Float64Array(0);

  function multiply(a, b, c) {
    const inner = a.columns, columns = transposed(b), C = c.data;
    const A = room(packed, "a", 4 * inner, double);
    const B = room(packed, "b", (b.columns + 1) * inner, double);
    for (let j = 0; j < b.columns; j += 2) pack(columns, j, 2, B, j * inner);
    for (let i = 0; i < a.rows; i += 4) {
      pack(a, i, 4, A, 0);
      for (let j = 0; j < b.columns; j += 2) {
        let s00 = 0, s01 = 0, s10 = 0, s11 = 0, s20 = 0, s21 = 0, s30 = 0, s31 = 0;
        for (let p = 0, q = j * inner; p < 4 * inner; p += 4, q += 2) {
          const x0 = A[p], x1 = A[p + 1], x2 = A[p + 2], x3 = A[p + 3];
          const y0 = B[q], y1 = B[q + 1];
          s00 += x0 * y0; s01 += x0 * y1; s10 += x1 * y0; s11 += x1 * y1;
          s20 += x2 * y0; s21 += x2 * y1; s30 += x3 * y0; s31 += x3 * y1;
        }
        const left = c.start + j * c.right;
        const right = left + (j + 1 < b.columns ? c.right : 0);
        const at = (row) => Math.min(i + row, c.rows - 1) * c.down;
        C[left + at(0)] = s00; C[left + at(1)] = s10;
        C[left + at(2)] = s20; C[left + at(3)] = s30;
        C[right + at(0)] = s01; C[right + at(1)] = s11;
        C[right + at(2)] = s21; C[right + at(3)] = s31;
      }
    }
  }

  /* Write `wide` rows of m, the first of them `from`, so that a column stands together. */
  function pack(m, from, wide, into, start) {
    const { data, right, columns } = m;
    for (let row = 0; row < wide; row++) {
      const first = m.start + Math.min(from + row, m.rows - 1) * m.down;
      for (let k = 0; k < columns; k++) {
        into[start + row + k * wide] = data[first + k * right];
      }
    }
  }

  function addBias(y, rows, columns, theta, start) {
    for (let i = 0, at = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++, at++) y[at] += theta[start + j];
    }
  }

  function sumColumns(y, rows, columns, into, start) {
    for (let j = 0; j < columns; j++) {
      let sum = 0;
      for (let i = 0, at = j; i < rows; i++, at += columns) sum += y[at];
      into[start + j] = sum;
    }
  }

  /* ---- Layers -------------------------------------------------------------------
     forward(theta, x, count) returns the outputs of `count` examples and keeps what the
     way back needs. backward(theta, d, g, first) is given the derivative d of the loss
     by those outputs, writes that by the layer's own parameters into the gradient g,
     and returns that by the inputs (which the first layer's nobody needs). A layer's
     `weights`, if it has any, stand in theta from `start` on, its `biases` behind. */

  /* y = x W' + b; W is [outputs, inputs], as in PyTorch. */
  function dense(inputs, outputs) {
    const weight = (of, self) => matrix(of, outputs, inputs, self.start);
    return {
      weights: inputs * outputs, biases: outputs,
      forward(theta, x, count) {
        const y = room(this, "y", count * outputs, theta);
        Object.assign(this, { x, count });
        const W = transposed(weight(theta, this));
        multiply(matrix(x, count, inputs), W, matrix(y, count, outputs));
        addBias(y, count, outputs, theta, this.start + this.weights);
        return y;
      },
      backward(theta, d, g, first) {
        const out = matrix(d, this.count, outputs);
        multiply(transposed(out), matrix(this.x, this.count, inputs), weight(g, this));
        sumColumns(d, this.count, outputs, g, this.start + this.weights);
        if (first) return null;
        const dx = room(this, "dx", this.count * inputs, theta);
        multiply(out, weight(theta, this), matrix(dx, this.count, inputs));
        return dx;
      },
    };
  }

  /* An activation that works on each number; slope(y) is its derivative, told from its
     output y. */
  function pointwise(size, value, slope) {
    return {
      forward(theta, x, count) {
        const y = room(this, "y", (this.used = count * size), theta);
        for (let i = 0; i < this.used; i++) y[i] = value(x[i]);
        return y;
      },
      backward(theta, d, g, first) {
        const dx = room(this, "dx", this.used, theta);
        for (let i = 0; i < this.used; i++) dx[i] = d[i] * slope(this.y[i]);
        return dx;
      },
    };
  }

  const activations = {
    relu: (size) => pointwise(size, (x) => (x > 0 ? x : 0), (y) => (y > 0 ? 1 : 0)),
    tanh: (size) => pointwise(size, Math.tanh, (y) => 1 - y * y),
  };

  /* Convolution with 3 x 3 filters and stride 2, which halves the side of an image.
     Images are stored pixel by pixel, [count, side, side, channels]. Cut into patches,
     one row per pixel of the result, they are a matrix, and the convolution is its
     product with the filters [filters, channels, 3, 3]. Padding is TensorFlow's "same":
     an even side gets a pixel behind, an odd one a pixel at each end. */
  function convolution(channels, filters, side) {
    const out = Math.ceil(side / 2), before = side % 2, width = 9 * channels;
    const weight = (of, self) => matrix(of, filters, width, self.start);

    /* Walk over patches and call each place in the image with its place there. */
    function cut(count, each) {
      let row = 0;
      for (let image = 0; image < count; image++) {
        for (let top = -before; top < 2 * out - before; top += 2) {
          for (let left = -before; left < 2 * out - before; left += 2) {
            for (let n = 0; n < 9; n++) {
              const r = top + ((n / 3) | 0), c = left + (n % 3);
              const inside = r >= 0 && r < side && c >= 0 && c < side;
              const pixel = ((image * side + r) * side + c) * channels;
              each(inside ? pixel : -1, row + n);
            }
            row += width;
          }
        }
      }
    }

    return {
      weights: filters * width, biases: filters,
      forward(theta, x, count) {
        const rows = (this.rows = count * out * out);
        const y = room(this, "y", rows * filters, theta);
        const patches = room(this, "patches", rows * width, theta);
        this.count = count;
        cut(count, (pixel, at) => {
          for (let c = 0; c < channels; c++, at += 9) {
            patches[at] = pixel < 0 ? 0 : x[pixel + c];
          }
        });
        const W = transposed(weight(theta, this));
        multiply(matrix(patches, rows, width), W, matrix(y, rows, filters));
        addBias(y, rows, filters, theta, this.start + this.weights);
        return y;
      },
      backward(theta, d, g, first) {
        const result = matrix(d, this.rows, filters);
        const patches = matrix(this.patches, this.rows, width);
        multiply(transposed(result), patches, weight(g, this));
        // Batch norm, which follows, takes a bias away again: its gradient is zero.
        const bias = this.start + this.weights;
        g.fill(0, bias, bias + filters);
        if (first) return null;
        const pixels = this.count * side * side * channels;
        const dx = room(this, "dx", pixels, theta).fill(0, 0, pixels);
        const back = this.patches; // no longer needed
        multiply(result, weight(theta, this), patches);
        cut(this.count, (pixel, at) => {
          if (pixel < 0) return;
          for (let c = 0; c < channels; c++, at += 9) dx[pixel + c] += back[at];
        });
        return dx;
      },
    };
  }

  /* Batch norm (Ioffe & Szegedy 2015): each channel gets mean 0 and variance 1 over the
     pixels of all images at hand, then a scale (`weights`) and a shift (`biases`).
     Answers depend on what is shown together, unless both are `kept` from the last pass. */
  function batchNorm(channels, pixels, eps) {
    return {
      weights: channels, biases: channels,
      forward(theta, x, count) {
        const rows = (this.rows = count * pixels), used = rows * channels;
        const y = room(this, "y", used, theta);
        const normed = room(this, "normed", used, theta);
        const mean = room(this, "mean", channels, theta);
        const root = room(this, "root", channels, theta);
        for (let c = 0; c < channels; c++) {
          let sum = 0, squares = 0;
          if (!this.kept) {
            for (let at = c; at < used; at += channels) sum += x[at];
            mean[c] = sum / rows;
            for (let at = c; at < used; at += channels) squares += (x[at] - mean[c]) ** 2;
            root[c] = 1 / Math.sqrt(squares / rows + eps);
          }
          const scale = theta[this.start + c], shift = theta[this.start + channels + c];
          for (let at = c; at < used; at += channels) {
            normed[at] = (x[at] - mean[c]) * root[c];
            y[at] = scale * normed[at] + shift;
          }
        }
        return y;
      },
      backward(theta, d, g, first) {
        const { rows, normed, root } = this, used = rows * channels;
        const dx = room(this, "dx", used, theta);
        for (let c = 0; c < channels; c++) {
          let sum = 0, product = 0;
          for (let at = c; at < used; at += channels) {
            sum += d[at];
            product += d[at] * normed[at];
          }
          g[this.start + c] = product;
          g[this.start + channels + c] = sum;
          // Mean and variance move with x, so two directions of d are taken out.
          const slope = theta[this.start + c] * root[c];
          for (let at = c; at < used; at += channels) {
            dx[at] = slope * (d[at] - sum / rows - normed[at] * (product / rows));
          }
        }
        return dx;
      },
    };
  }

  /* Bring images from [channels, pixels], PyTorch's order, to [pixels, channels]; swap
     the arguments to bring them back. */
  function reorder(channels, pixels) {
    const size = channels * pixels;
    function turn(from, into, count, rows, columns) {
      for (let image = 0; image < count * size; image += size) {
        for (let i = 0; i < size; i++) {
          into[image + (i % rows) * columns + ((i / rows) | 0)] = from[image + i];
        }
      }
      return into;
    }
    return {
      forward(theta, x, count) {
        this.count = count;
        return turn(x, room(this, "y", count * size, theta), count, pixels, channels);
      },
      backward(theta, d, g, first) {
        if (first) return null;
        const dx = room(this, "dx", this.count * size, theta);
        return turn(d, dx, this.count, channels, pixels);
      },
    };
  }

  /* ---- Networks -----------------------------------------------------------------
     `layers` in the order of computing; `stored`, if it differs, in that of theta. */

  function network(layers, outputs, stored = layers) {
    let size = 0;
    for (const layer of stored) {
      layer.start = size;
      if (layer.weights) size += layer.weights + layer.biases;
    }
    return { layers, outputs, size };
  }

  /* As `reptile_lib.mlp(*sizes, activation=...)`. */
  function mlp(sizes, activation = "relu") {
    const layers = [];
    for (let i = 1; i < sizes.length; i++) {
      if (i > 1) layers.push(activations[activation](sizes[i - 1]));
      layers.push(dense(sizes[i - 1], sizes[i]));
    }
    return network(layers, sizes[sizes.length - 1]);
  }

  /* As `reptile_lib.conv4(ways, channels, size)`, with any number of filters. Images
     are [channels, size, size] each. */
  function conv4(ways, { channels = 1, size = 28, filters = 64 } = {}) {
    const convolutions = [], norms = [];
    const layers = [reorder(channels, size * size)];
    for (let i = 0, side = size; i < 4; i++) {
      convolutions.push(convolution(i ? filters : channels, filters, side));
      side = Math.ceil(side / 2);
      norms.push(batchNorm(filters, side * side, 1e-3));
      layers.push(convolutions[i], norms[i], activations.relu(filters * side * side));
    }
    const pixels = Math.ceil(size / 16) ** 2;
    const out = dense(filters * pixels, ways);
    layers.push(reorder(pixels, filters), out);
    return network(layers, ways, [...convolutions, ...norms, out]);
  }

  function forward(network, theta, x, count) {
    return network.layers.reduce((y, layer) => layer.forward(theta, y, count), x);
  }

  /* What a network answers to `count` examples, [count * outputs]. */
  function outputs(network, theta, x, count) {
    return forward(network, theta, x, count).slice(0, count * network.outputs);
  }

  /* The loss on a batch {x, y, count}, and its gradient g, as long as theta. */
  function gradient(network, theta, batch, loss) {
    const g = room(network, "g", network.size, theta);
    const answers = forward(network, theta, batch.x, batch.count);
    let d = room(network, "d", batch.count * network.outputs, theta);
    const value = loss(answers, batch.y, batch.count, network.outputs, d);
    for (let i = network.layers.length - 1; i >= 0; i--) {
      const first = network.layers.slice(0, i).every((layer) => !layer.weights);
      d = network.layers[i].backward(theta, d, g, first);
      if (first) break; // nothing before it has parameters
    }
    return { loss: value, g };
  }

  /* ---- Losses: their value; their derivative by the outputs goes into d ---------- */

  function squaredError(answers, y, count, width, d = []) {
    const size = count * width;
    let sum = 0;
    for (let i = 0; i < size; i++) {
      const off = answers[i] - y[i];
      d[i] = (2 * off) / size;
      sum += off * off;
    }
    return sum / size;
  }

  /* y holds labels 0, 1, ... ways - 1. */
  function crossEntropy(answers, y, count, ways, d = []) {
    let sum = 0;
    for (let i = 0; i < count; i++) {
      const at = i * ways;
      let most = -Infinity, total = 0;
      for (let j = at; j < at + ways; j++) most = Math.max(most, answers[j]);
      for (let j = at; j < at + ways; j++) total += Math.exp(answers[j] - most);
      for (let j = at; j < at + ways; j++) {
        d[j] = Math.exp(answers[j] - most) / total / count;
      }
      d[at + y[i]] -= 1 / count;
      sum += Math.log(total) - (answers[at + y[i]] - most);
    }
    return sum / count;
  }

  /* ---- Optimisers: `begin` makes a state, `step` changes theta and state --------- */

  function sgd(rate) {
    return {
      begin: () => ({}),
      step(theta, g) {
        for (let i = 0; i < theta.length; i++) theta[i] -= rate * g[i];
      },
    };
  }

  /* Adam (Kingma & Ba 2015). With beta1 = 0, as Reptile's authors have it, the first
     moment is the gradient itself. */
  function adam(rate, { beta1 = 0, beta2 = 0.999, eps = 1e-8 } = {}) {
    return {
      begin: (theta) => ({ step: 0, m: theta.slice().fill(0), v: theta.slice().fill(0) }),
      step(theta, g, state) {
        const { m, v } = state;
        state.step += 1;
        const first = 1 - beta1 ** state.step, second = 1 - beta2 ** state.step;
        for (let i = 0; i < theta.length; i++) {
          m[i] += (1 - beta1) * (g[i] - m[i]);
          v[i] += (1 - beta2) * (g[i] * g[i] - v[i]);
          theta[i] -= (rate * (m[i] / first)) / (Math.sqrt(v[i] / second) + eps);
        }
      },
    };
  }

  /* ---- The algorithm -------------------------------------------------------------
     A task is {x, y, count}: its support set. `how` says how to adapt to it:
       optimizer, loss   of this file;
       steps             k, each on all examples of the task; or
       order             for each step, the numbers of the examples that it takes;
       state             where the optimiser goes on; without it, it begins anew;
       watch             watch(steps taken, theta) is called before and after each. */

  function minibatch(task, chosen) {
    if (!chosen) return task;
    const wide = task.x.length / task.count, high = task.y.length / task.count;
    const pick = (all, size) =>
      chosen.flatMap((i) => Array.from(all.slice(i * size, (i + 1) * size)));
    return { x: pick(task.x, wide), y: pick(task.y, high), count: chosen.length };
  }

  /* k inner steps from phi: the adapted theta, the loss before each, the last state. */
  function innerLoop(network, phi, task, how) {
    const theta = phi.slice(), losses = [];
    const state = how.state ? copy(how.state) : how.optimizer.begin(theta);
    if (how.watch) how.watch(0, theta);
    const steps = how.order ? how.order.length : how.steps;
    for (let step = 0; step < steps; step++) {
      const batch = minibatch(task, how.order && how.order[step]);
      const { loss, g } = gradient(network, theta, batch, how.loss);
      how.optimizer.step(theta, g, state);
      losses.push(loss);
      if (how.watch) how.watch(step + 1, theta);
    }
    return { theta, losses, state };
  }

  /* phi + epsilon (mean of the adapted thetas - phi). */
  function outerStep(phi, thetas, epsilon) {
    return phi.map((start, i) => {
      let sum = 0;
      for (const theta of thetas) sum += theta[i];
      return start + epsilon * (sum / thetas.length - start);
    });
  }

  /* The loss of theta on a batch. */
  function lossOf(network, theta, batch, loss) {
    const answers = forward(network, theta, batch.x, batch.count);
    return loss(answers, batch.y, batch.count, network.outputs);
  }

  /* Logits of the queries, [query.count * ways]. Batch norm looks at what it is shown,
     so there are three ways to ask: all queries "together" (transductive), each "beside"
     the whole support set, or each by the statistics "kept" of the support set. */
  function answers(network, theta, support, query, way) {
    if (way === "kept") {
      forward(network, theta, support.x, support.count);
      for (const layer of network.layers) layer.kept = true;
    }
    if (way !== "beside") {
      const found = outputs(network, theta, query.x, query.count);
      for (const layer of network.layers) layer.kept = false;
      return found;
    }
    const size = query.x.length / query.count, ways = network.outputs;
    const shown = new theta.constructor((support.count + 1) * size);
    const found = new theta.constructor(query.count * ways);
    shown.set(support.x);
    for (let i = 0; i < query.count; i++) {
      shown.set(query.x.slice(i * size, (i + 1) * size), support.count * size);
      const all = outputs(network, theta, shown, support.count + 1);
      found.set(all.slice(support.count * ways), i * ways);
    }
    return found;
  }

  function copy(state) {
    const each = ([name, value]) => [name, value.slice ? value.slice() : value];
    return Object.fromEntries(Object.entries(state).map(each));
  }

  /* Float32 numbers, written as base64 by `python -m reptile_book.weights`. */
  function floats(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  }

  root.Reptile = {
    mlp, conv4, outputs, gradient, lossOf, answers, squaredError, crossEntropy,
    sgd, adam, innerLoop, outerStep, floats,
    // This text: a worker made of it needs no file, which Chrome refuses on disk.
    source: `(${engine})(self)`,
  };
  if (typeof module !== "undefined") module.exports = root.Reptile;
})(typeof self === "undefined" ? globalThis : self);
