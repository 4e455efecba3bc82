// Training of CP-Mobile's inverted residual block on a CPU: what inverted_residual.py calls.
//
// The block is expand (1x1), normalise, ReLU, depthwise (3x3), normalise, ReLU, project (1x1), normalise, shortcut,
// global response normalisation, ReLU. Rows of its widest map, the expanded one, are made and used while they are in
// the cache. Those made from few channels are forgotten, and made again in the backward pass, which takes less time
// than memory does. What else is kept is what the depthwise convolution and the projection give.
//
// Each clip is the work of one thread.
#include "blocks.h"

// Adds what a row of output gradients g says of one of the three input rows and of the three taps that met it. A place
// of the input meets up to three outputs, one after the other: its sum is carried along in registers.
template <int STRIDE>
static void depthwise_row_backward(const float* g, const float* row, const float* weight, int places, int channels,
                                   float* row_gradient, float* weight_gradient) {
  for (int c = 0; c < channels; c += LANES) {
    Vector taps[3], sums[3], carried[2] = {};
    for (int dx = 0; dx < 3; dx++) {
      taps[dx] = load(weight + dx * channels + c);
      sums[dx] = load(weight_gradient + dx * channels + c);
    }
    float* to = row_gradient + c;
    const float* from = row + c;
    for (int place = 0; place < places; place++, to += STRIDE * channels, from += STRIDE * channels) {
      const Vector gradient = load(g + (ptrdiff_t)place * channels + c);
#pragma GCC unroll 3
      for (int dx = 0; dx < 3; dx++) sums[dx] += gradient * load(from + dx * channels);
      store(to, load(to) + carried[0] + taps[0] * gradient);
      if (STRIDE == 1) {
        carried[0] = carried[1] + taps[1] * gradient;
        carried[1] = taps[2] * gradient;
      } else {
        store(to + channels, load(to + channels) + taps[1] * gradient);
        carried[0] = taps[2] * gradient;
      }
    }
    store(to, load(to) + carried[0]);
    if (STRIDE == 1) store(to + channels, load(to + channels) + carried[1]);
    for (int dx = 0; dx < 3; dx++) store(weight_gradient + dx * channels + c, sums[dx]);
  }
}

// Sums of what a ReLU, which gave `hidden`, lets through of the gradient of its result, and of this times the distance
// of the normalisation's input from its mean. What is let through is stored in `kept`, unless that is null.
struct SumsOfPassed {
  const float *hidden, *input, *mean;
  int channels;
  float *sum, *product, *kept;
  template <int ROWS, int VECTORS>
  void operator()(const Vector (&gradients)[ROWS][VECTORS], int row, int column) const {
#pragma GCC unroll 3
    for (int n = 0; n < VECTORS; n++) {
      const int c = column + n * LANES;
      const Vector centre = load(mean + c);
      Vector total = load(sum + c), along = load(product + c);
#pragma GCC unroll 8
      for (int m = 0; m < ROWS; m++) {
        const ptrdiff_t at = (ptrdiff_t)(row + m) * channels + c;
        const Vector passed = load(hidden + at) > Vector{} ? gradients[m][n] : Vector{};
        total += passed;
        along += passed * (load(input + at) - centre);
        if (kept) store(kept + at, passed);
      }
      store(sum + c, total);
      store(product + c, along);
    }
  }
};

// Adds to the gradient of a place what the pool of the shortcut hands back of dz, the gradient of a clip's pooled map.
static void add_through_pool(const BlockSizes& s, const float* dz, int y, int x, float* to) {
  for (int dy = -1; dy <= 1; dy++)
    for (int dx = -1; dx <= 1; dx++) {
      // the window around y + dy, x + dx, if there is one
      const int row = (y + dy) / s.stride_height, place = (x + dx) / s.stride_width;
      if (y + dy < 0 || row * s.stride_height != y + dy || row >= s.out_height()) continue;
      if (x + dx < 0 || place * s.stride_width != x + dx || place >= s.out_width()) continue;
      const float* from = dz + ((size_t)row * s.out_width() + place) * s.inputs;
#pragma omp simd
      for (int c = 0; c < s.inputs; c++) to[c] += from[c] * (1 / 9.f);
    }
}

extern "C" {

// shift (inputs) is the first clip's mean; totals (inputs + 1, padded inputs): d^T d and, below it, the sums of d, the
// distances of x from shift.
void input_moments(const BlockSizes* sizes, int threads, const float* x, float* shift, double* totals) {
  const BlockSizes s = *sizes;
  const int columns = padded(s.inputs);
  std::vector<double> first_clip(s.inputs);
  for (int place = 0; place < s.places(); place++)
    for (int c = 0; c < s.inputs; c++) first_clip[c] += x[(size_t)place * s.inputs + c];
  for (int c = 0; c < s.inputs; c++) shift[c] = first_clip[c] / s.places();
  PartialSums thread_totals(threads, (size_t)(s.inputs + 1) * columns);
#pragma omp parallel num_threads(threads)
  {
    Buffer sums(thread_totals.size), block((size_t)BLOCK * columns);
    float* sum = sums.data() + (size_t)s.inputs * columns;
#pragma omp for schedule(static)
    for (int clip = 0; clip < s.clips; clip++) {
      for (int place = 0; place < s.places(); place += BLOCK) {
        const int count = std::min(BLOCK, s.places() - place);
        const float* from = x + ((size_t)clip * s.places() + place) * s.inputs;
        for (int i = 0; i < count; i++) {
          float* to = block.data() + (size_t)i * columns;
          for (int c = 0; c < s.inputs; c++) sum[c] += (to[c] = from[(size_t)i * s.inputs + c] - shift[c]);
        }
        multiply(s.inputs, columns, count, {block.data(), 1, columns}, block.data(), sums.data(), true);
        move_to_totals(sums.data(), sums.size(), thread_totals.of_thread());
      }
    }
  }
  thread_totals.write(totals);
}

// x -> depthwise (clips, out_height, out_width, hidden) and its moments (clips, 2, hidden), and `kept`, the expanded
// map (clips, height, width, hidden), unless it is null. The first normalisation is in the expansion's weight
// (inputs + 1, hidden), whose last row is the bias; depthwise_weight is (9, hidden).
void expand_depthwise(const BlockSizes* sizes, int threads, const float* x, const float* weight,
                      const float* depthwise_weight, float* kept, float* depthwise, double* moments) {
  const BlockSizes s = *sizes;
  const float* bias = weight + (size_t)s.inputs * s.hidden;
#pragma omp parallel num_threads(threads)
  {
    Rows rows(s.width, s.hidden);
#pragma omp for schedule(static)
    for (int clip = 0; clip < s.clips; clip++) {
      Moments clip_moments(s.hidden);
      for (int out = 0, expanded = 0; out < s.out_height(); out++) {
        const int centre = out * s.stride_height;
        for (; expanded < std::min(centre + 2, s.height); expanded++) {
          const size_t first = ((size_t)clip * s.height + expanded) * s.width;
          expand_row(s, x + first * s.inputs, weight, bias, rows[expanded]);
          if (kept) std::copy_n(rows[expanded], (size_t)s.width * s.hidden, kept + first * s.hidden);
        }
        const float* met[3] = {centre > 0 ? rows.with_border(centre - 1) : rows.zeros(), rows.with_border(centre),
                               centre + 1 < s.height ? rows.with_border(centre + 1) : rows.zeros()};
        float* to = depthwise + ((size_t)clip * s.out_height() + out) * s.out_width() * s.hidden;
        depthwise_row(met, depthwise_weight, s.out_width(), s.stride_width, s.hidden, to,
                      [](Vector sum, int) { return sum; });
        clip_moments.add(to, s.out_width());
      }
      clip_moments.write(moments + (size_t)clip * 2 * s.hidden);
    }
  }
}

// depthwise -> projected (clips, out_height, out_width, outputs) and its moments (clips, 2, outputs). scale and bias
// are the second normalisation's; weight (hidden, padded outputs).
void project(const BlockSizes* sizes, int threads, const float* depthwise, const float* scale, const float* bias,
             const float* weight, float* projected, double* moments) {
  const BlockSizes s = *sizes;
#pragma omp parallel num_threads(threads)
  {
    Buffer hidden((size_t)BLOCK * s.hidden), wide;
#pragma omp for schedule(static)
    for (int clip = 0; clip < s.clips; clip++) {
      Moments clip_moments(s.outputs);
      for (int place = 0; place < s.out_places(); place += BLOCK) {
        const int count = std::min(BLOCK, s.out_places() - place);
        const size_t first = (size_t)clip * s.out_places() + place;
        scale_and_relu(depthwise + first * s.hidden, scale, bias, count, s.hidden, hidden.data());
        float* to = projected + first * s.outputs;
        multiply_to_dense(count, s.outputs, s.hidden, {hidden.data(), s.hidden, 1}, weight, to, wide);
        clip_moments.add(to, count);
      }
      clip_moments.write(moments + (size_t)clip * 2 * s.outputs);
    }
  }
}

// x -> pooled (clips, out_height, out_width, inputs), the shortcut of a block with a stride.
void pool(const BlockSizes* sizes, int threads, const float* x, float* pooled) {
  const BlockSizes s = *sizes;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int clip = 0; clip < s.clips; clip++)
    pool_rows(s, x + (size_t)clip * s.places() * s.inputs, 0, s.out_height(),
              pooled + (size_t)clip * s.out_places() * s.inputs);
}

// projected and the shortcut, which may be null -> y, all (clips, out_height, out_width, outputs), and the norm of
// each channel, norms (clips, outputs). scale and bias are the third normalisation's, gain and offset the response's.
void finish(const BlockSizes* sizes, int threads, const float* projected, const float* shortcut, const float* scale,
            const float* bias, const float* gain_and_offset, float* y, float* norms) {
  const BlockSizes s = *sizes;
  const float gain = gain_and_offset[0], offset = gain_and_offset[1];
  const int channels = s.outputs;
#pragma omp parallel num_threads(threads)
  {
    Buffer sums(channels), factors(channels);
    float *energy = sums.data(), *factor = factors.data();
    std::vector<double> energies(channels);
#pragma omp for schedule(static)
    for (int clip = 0; clip < s.clips; clip++) {
      std::fill(energies.begin(), energies.end(), 0.);
      const size_t first = (size_t)clip * s.out_places() * channels, end = first + (size_t)s.out_places() * channels;
      sum_over_places(first, end, channels, sums, energies.data(), [=](size_t i) {
#pragma omp simd
        for (int c = 0; c < channels; c++) {
          float z = projected[i + c] * scale[c] + bias[c];
          if (shortcut) z += shortcut[i + c];
          y[i + c] = z;
          energy[c] += z * z;
        }
      });
      float* norm = norms + (size_t)clip * channels;
      for (int c = 0; c < channels; c++) norm[c] = std::sqrt(std::max((float)energies[c], FLT_MIN));
      const float share = 1 / (mean_of(norm, channels) + s.epsilon);
      for (int c = 0; c < channels; c++) factor[c] = 1 + gain * norm[c] * share;
      for (size_t i = first; i < end; i += channels)
#pragma omp simd
        for (int c = 0; c < channels; c++) y[i + c] = std::max(y[i + c] * factor[c] + offset, 0.f);
    }
  }
}

// gradient of y -> dz, that of the third normalisation's result and of the shortcut. sums (2, outputs): of dz, and of
// dz times the distance of projected from its mean. response (2): gradients of gain and offset. Both are float64.
void finish_backward(const BlockSizes* sizes, int threads, const float* gradient, const float* projected,
                     const float* shortcut, const float* scale, const float* bias, const float* mean,
                     const float* gain_and_offset, const float* norms, float* dz, double* sums, double* response) {
  const BlockSizes s = *sizes;
  const float gain = gain_and_offset[0], offset = gain_and_offset[1];
  const int channels = s.outputs;
  PartialSums sums_of_clips(s.clips, 2 * (size_t)channels), responses(s.clips, 2);
#pragma omp parallel num_threads(threads)
  {
    Buffer memory(2 * (size_t)channels), block_sums(2 * (size_t)channels);
    float *factor = memory.data(), *through = factor + channels;
    float *sum = block_sums.data(), *product = sum + channels;
    std::vector<double> clip_sums(2 * channels);
    const double *plain = clip_sums.data(), *along = plain + channels;  // sums of g; gradients of the factors
#pragma omp for schedule(static)
    for (int clip = 0; clip < s.clips; clip++) {
      const float* norm = norms + (size_t)clip * channels;
      const size_t first = (size_t)clip * s.out_places() * channels, end = first + (size_t)s.out_places() * channels;
      const float share = 1 / (mean_of(norm, channels) + s.epsilon);
      for (int c = 0; c < channels; c++) factor[c] = 1 + gain * norm[c] * share;
      std::fill(clip_sums.begin(), clip_sums.end(), 0.);
      sum_over_places(first, end, channels, block_sums, clip_sums.data(), [=](size_t i) {
#pragma omp simd
        for (int c = 0; c < channels; c++) {
          float z = projected[i + c] * scale[c] + bias[c];
          if (shortcut) z += shortcut[i + c];
          dz[i + c] = z;
          const float g = z * factor[c] + offset > 0 ? gradient[i + c] : 0.f;
          sum[c] += g;
          product[c] += g * z;
        }
      });
      double of_gain = 0, of_offset = 0;
      for (int c = 0; c < channels; c++) {
        of_gain += along[c] * norm[c] * share;
        of_offset += plain[c];
      }
      responses.of(clip)[0] = of_gain;
      responses.of(clip)[1] = of_offset;
      const double of_mean = -gain * of_gain * share / channels;  // the gradient of each norm through their mean
      for (int c = 0; c < channels; c++) {
        const bool is_silent = norm[c] <= std::sqrt(FLT_MIN);  // its norm is a constant
        through[c] = is_silent ? 0.f : (float)((gain * along[c] * share + of_mean) / norm[c]);
      }
      sum_over_places(first, end, channels, block_sums, sums_of_clips.of(clip), [=](size_t i) {
#pragma omp simd
        for (int c = 0; c < channels; c++) {
          const float z = dz[i + c];
          const float g = z * factor[c] + offset > 0 ? gradient[i + c] : 0.f;
          const float d = g * factor[c] + through[c] * z;
          dz[i + c] = d;
          sum[c] += d;
          product[c] += d * (projected[i + c] - mean[c]);
        }
      });
    }
  }
  sums_of_clips.write(sums);
  responses.write(response);
}

// totals (outputs + 2, hidden): the gradient of the projection's weight, transposed; below it the sums of the
// gradient g of the second normalisation's result, and of g times the distance of depthwise from its mean. `kept`
// (clips, out_height, out_width, hidden) is g, unless it is null. weight is (outputs, hidden).
void project_backward(const BlockSizes* sizes, int threads, const float* dz, const float* projected,
                      const float* coefficients, const float* depthwise, const float* scale, const float* bias,
                      const float* mean, const float* weight, float* kept, double* totals) {
  const BlockSizes s = *sizes;
  PartialSums thread_totals(threads, (size_t)(s.outputs + 2) * s.hidden);
#pragma omp parallel num_threads(threads)
  {
    Buffer sums(thread_totals.size), gradient((size_t)BLOCK * s.outputs);
    Buffer hidden((size_t)BLOCK * s.hidden);
    float *sum = sums.data() + (size_t)s.outputs * s.hidden, *product = sum + s.hidden;
    double* totals_of_thread = thread_totals.of_thread();
#pragma omp for schedule(static)
    for (int clip = 0; clip < s.clips; clip++) {
      for (int place = 0; place < s.out_places(); place += BLOCK) {
        const int count = std::min(BLOCK, s.out_places() - place);
        const size_t first = (size_t)clip * s.out_places() + place;
        apply({dz, projected, coefficients}, first, count, s.outputs, gradient.data());
        scale_and_relu(depthwise + first * s.hidden, scale, bias, count, s.hidden, hidden.data());
        multiply(s.outputs, s.hidden, count, {gradient.data(), 1, s.outputs}, hidden.data(), sums.data(), true);
        const SumsOfPassed finish{hidden.data(), depthwise + first * s.hidden, mean,   s.hidden, sum,
                                  product,       kept ? kept + first * s.hidden : nullptr};
        multiply(count, s.hidden, s.outputs, {gradient.data(), s.outputs, 1}, weight, nullptr, finish);
        move_to_totals(sum, 2 * (size_t)s.hidden, totals_of_thread + (size_t)s.outputs * s.hidden);
      }
      move_to_totals(sums.data(), sums.size(), totals_of_thread);
    }
  }
  thread_totals.write(totals);
}

// dx (clips, height, width, inputs) = g expand_back, where g is the gradient of the first normalisation's result and
// expand_back (hidden, padded inputs). totals (inputs + 10, hidden): x^T g; the sums of g; the gradient of
// depthwise_weight. weight and `kept` are those of expand_depthwise, `kept_gradient` is the `kept` of project_backward;
// coefficients and hidden_coefficients are those of the third and second normalisation's gradients.
void expand_depthwise_backward(const BlockSizes* sizes, int threads, const float* x, const float* dz,
                               const float* projected, const float* coefficients, const float* project_weight,
                               const float* depthwise, const float* scale, const float* bias,
                               const float* hidden_coefficients, const float* depthwise_weight, const float* weight,
                               const float* expand_back, const float* kept, const float* kept_gradient, float* dx,
                               double* totals) {
  const BlockSizes s = *sizes;
  const float* expand_bias = weight + (size_t)s.inputs * s.hidden;
  const int width = s.out_width(), height = s.out_height(), group = std::max(1, BLOCK / width);
  PartialSums thread_totals(threads, (size_t)(s.inputs + 10) * s.hidden);
#pragma omp parallel num_threads(threads)
  {
    Buffer sums(thread_totals.size), gradient((size_t)group * width * s.outputs), wide;
    Buffer g((size_t)group * width * s.hidden), strip((size_t)(BLOCK + s.width) * s.hidden);
    Rows rows(s.width, s.hidden), gradients(s.width, s.hidden);
    float *sum = sums.data() + (size_t)s.inputs * s.hidden, *taps = sum + s.hidden;
#pragma omp for schedule(static)
    for (int clip = 0; clip < s.clips; clip++) {
      for (int out = 0, expanded = 0, finished = 0, held = 0; out < height; out++) {
        const int centre = out * s.stride_height;
        for (; expanded < std::min(centre + 2, s.height); expanded++) {
          const size_t first = ((size_t)clip * s.height + expanded) * s.width;
          if (kept) std::copy_n(kept + first * s.hidden, (size_t)s.width * s.hidden, rows[expanded]);
          else expand_row(s, x + first * s.inputs, weight, expand_bias, rows[expanded]);
          std::fill_n(gradients.with_border(expanded), gradients.size, 0.f);
        }
        if (out % group == 0) {  // gradients of the depthwise convolution's next rows
          const int places = std::min(group, height - out) * width;
          const size_t first = ((size_t)clip * height + out) * width;
          const float* of_result = kept_gradient ? kept_gradient + first * s.hidden : g.data();
          if (!kept_gradient) {
            apply({dz, projected, coefficients}, first, places, s.outputs, gradient.data());
            multiply(places, s.hidden, s.outputs, {gradient.data(), s.outputs, 1}, project_weight, g.data(), false);
          }
          for (int i = 0; i < places; i++, of_result += s.hidden) {
            float* to = g.data() + (size_t)i * s.hidden;
            const float* input = depthwise + (first + i) * s.hidden;
            const float *factor = hidden_coefficients, *slope = factor + s.hidden, *shift = slope + s.hidden;
#pragma omp simd
            for (int c = 0; c < s.hidden; c++) {
              const float masked = input[c] * scale[c] + bias[c] > 0 ? of_result[c] : 0.f;
              to[c] = factor[c] * masked + slope[c] * input[c] + shift[c];
            }
          }
        }
        for (int dy = 0; dy < 3; dy++) {
          const int row = centre + dy - 1;
          if (row < 0 || row >= s.height) continue;
          const auto row_backward = s.stride_width == 1 ? depthwise_row_backward<1> : depthwise_row_backward<2>;
          row_backward(g.data() + (size_t)(out % group) * width * s.hidden, rows.with_border(row),
                       depthwise_weight + 3 * dy * s.hidden, width, s.hidden, gradients.with_border(row),
                       taps + 3 * dy * s.hidden);
        }
        const int complete = out + 1 == height ? s.height : centre + s.stride_height - 1;  // rows before this one
        for (; finished < complete; finished++) {
          const float *h = rows[finished], *from = gradients[finished];
          float* to = strip.data() + (size_t)held * s.hidden;
          for (int i = 0; i < s.width; i++, h += s.hidden, from += s.hidden, to += s.hidden)
#pragma omp simd
            for (int c = 0; c < s.hidden; c++) {
              to[c] = h[c] > 0 ? from[c] : 0.f;
              sum[c] += to[c];
            }
          held += s.width;
          if (held < BLOCK && finished + 1 < s.height) continue;
          const size_t first = ((size_t)clip * s.height + finished + 1) * s.width - held;
          multiply(s.inputs, s.hidden, held, {x + first * s.inputs, 1, s.inputs}, strip.data(), sums.data(), true);
          float* dense = dx + first * s.inputs;
          multiply_to_dense(held, s.inputs, s.hidden, {strip.data(), s.hidden, 1}, expand_back, dense, wide);
          held = 0;
        }
      }
      move_to_totals(sums.data(), sums.size(), thread_totals.of_thread());
    }
  }
  thread_totals.write(totals);
}

// dx += x matrix + offset, and what the shortcut hands back of dz, which is null where there is none; matrix
// (inputs + 1, padded inputs) has the offset below it.
void add_product(const BlockSizes* sizes, int threads, const float* x, const float* matrix, const float* dz,
                 float* dx) {
  const BlockSizes s = *sizes;
  const float* offset = matrix + (size_t)s.inputs * padded(s.inputs);
  const bool is_pooled = s.stride_height * s.stride_width > 1;
#pragma omp parallel num_threads(threads)
  {
    Buffer block((size_t)BLOCK * padded(s.inputs));
#pragma omp for schedule(static)
    for (int clip = 0; clip < s.clips; clip++)
      for (int place = 0; place < s.places(); place += BLOCK) {
        const int count = std::min(BLOCK, s.places() - place), columns = padded(s.inputs);
        const size_t first = ((size_t)clip * s.places() + place) * s.inputs;
        multiply(count, columns, s.inputs, {x + first, s.inputs, 1}, matrix, block.data(), false);
        for (int i = 0; i < count; i++) {
          const size_t at = first + (size_t)i * s.inputs;
          const float* product = block.data() + (size_t)i * columns;
          for (int c = 0; c < s.inputs; c++) dx[at + c] += product[c] + offset[c];
          if (dz && is_pooled)
            add_through_pool(s, dz + (size_t)clip * s.out_places() * s.inputs, (place + i) / s.width,
                             (place + i) % s.width, dx + at);
          else if (dz)
            for (int c = 0; c < s.inputs; c++) dx[at + c] += dz[at + c];
        }
      }
  }
}
}
