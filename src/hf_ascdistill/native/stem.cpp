// Training of CP-Mobile's stem on a CPU: what stem.py calls.
//
// The stem is two 3x3 convolutions of stride 2 and padding 1, each with a normalisation and a ReLU. What the first one
// gives never lies in memory: its rows are made where the second needs them, and again in the backward pass. Each clip
// is the work of one thread.
#include "stem.h"

extern "C" {

// totals (TAPS + 1, PATCH): patches^T patches; as the last column of a patch is a one, the last row holds its sums.
void patch_moments(const StemSizes* sizes, int threads, const float* x, double* totals) {
  const StemSizes s = *sizes;
  PartialSums thread_totals(threads, (TAPS + 1) * PATCH);
#pragma omp parallel num_threads(threads)
  {
    Buffer sums(thread_totals.size), patches((size_t)s.middle_width() * PATCH);
#pragma omp for schedule(static)
    for (int clip = 0; clip < s.clips; clip++) {
      for (int row = 0; row < s.middle_height(); row++) {
        fill_patches(s, x + (size_t)clip * s.height * s.width, row, patches.data());
        multiply(TAPS + 1, PATCH, s.middle_width(), {patches.data(), 1, PATCH}, patches.data(), sums.data(), true);
        move_to_totals(sums.data(), sums.size(), thread_totals.of_thread());
      }
    }
  }
  thread_totals.write(totals);
}

// x (clips, height, width) -> second (clips, out_height, out_width, outputs), what the second convolution gives, and
// its moments (clips, 2, outputs). weight (TAPS + 1, padded middle); second_weight (3, 3 middle, padded outputs).
void convolve_twice(const StemSizes* sizes, int threads, const float* x, const float* weight,
                    const float* second_weight, float* second, double* moments) {
  const StemSizes s = *sizes;
  const int columns = padded(s.outputs);
#pragma omp parallel num_threads(threads)
  {
    Rows rows(s.middle_width(), s.middle);
    Buffer patches((size_t)s.middle_width() * PATCH), wide, sums((size_t)s.out_width() * columns);
#pragma omp for schedule(static)
    for (int clip = 0; clip < s.clips; clip++) {
      Moments clip_moments(s.outputs);
      for (int out = 0, made = 0; out < s.out_height(); out++) {
        for (; made < std::min(2 * out + 2, s.middle_height()); made++) {
          fill_patches(s, x + (size_t)clip * s.height * s.width, made, patches.data());
          middle_row(s, patches.data(), weight, rows[made], wide);
        }
        second_row(s, rows, second_weight, out, sums.data());
        float* to = second + ((size_t)clip * s.out_height() + out) * s.out_width() * s.outputs;
        copy_columns(sums.data(), columns, s.out_width(), s.outputs, to);
        clip_moments.add(to, s.out_width());
      }
      clip_moments.write(moments + (size_t)clip * 2 * s.outputs);
    }
  }
}

// second -> y, the second normalisation and ReLU.
void finish_stem(const StemSizes* sizes, int threads, const float* second, const float* scale, const float* bias,
                 float* y) {
  const StemSizes s = *sizes;
  const int places = s.out_height() * s.out_width();
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int clip = 0; clip < s.clips; clip++) {
    const size_t first = (size_t)clip * places * s.outputs;
    scale_and_relu(second + first, scale, bias, places, s.outputs, y + first);
  }
}

// sums (2, outputs): of the gradient g of the second normalisation's result, and of g times the distance of second from
// its mean.
void finish_stem_backward(const StemSizes* sizes, int threads, const float* gradient, const float* second,
                          const float* scale, const float* bias, const float* mean, double* sums) {
  const StemSizes s = *sizes;
  const int channels = s.outputs;
  const size_t of_clip = (size_t)s.out_height() * s.out_width() * channels;
  PartialSums sums_of_clips(s.clips, 2 * (size_t)channels);
#pragma omp parallel num_threads(threads)
  {
    Buffer block_sums(2 * (size_t)channels);
    float *sum = block_sums.data(), *product = sum + channels;
#pragma omp for schedule(static)
    for (int clip = 0; clip < s.clips; clip++) {
      double* of_sums = sums_of_clips.of(clip);
      sum_over_places(clip * of_clip, (clip + 1) * of_clip, channels, block_sums, of_sums, [=](size_t i) {
#pragma omp simd
        for (int c = 0; c < channels; c++) {
          const float g = second[i + c] * scale[c] + bias[c] > 0 ? gradient[i + c] : 0.f;
          sum[c] += g;
          product[c] += g * (second[i + c] - mean[c]);
        }
      });
    }
  }
  sums_of_clips.write(sums);
}

// totals (9 middle padded outputs + (TAPS + 1) padded middle): the gradient of second_weight; patches^T g,
// where g is the gradient of the first normalisation's result, whose last row holds the sums of g. coefficients are
// those of the second normalisation's gradient; second_back (3, outputs, padded 3 middle) is second_weight transposed.
void convolve_twice_backward(const StemSizes* sizes, int threads, const float* x, const float* weight,
                             const float* gradient, const float* second, const float* scale, const float* bias,
                             const float* coefficients, const float* second_back, double* totals) {
  const StemSizes s = *sizes;
  const int columns = padded(s.outputs), wide_middle = padded(s.middle);
  const int depth = 3 * s.middle, wide_depth = padded(depth);  // what a row of three taps meets
  const float *factor = coefficients, *slope = factor + s.outputs, *shift = slope + s.outputs;
  PartialSums thread_totals(threads, (size_t)3 * depth * columns + (TAPS + 1) * wide_middle);
#pragma omp parallel num_threads(threads)
  {
    Rows rows(s.middle_width(), s.middle), gradients(s.middle_width(), s.middle), patches(s.middle_width(), PATCH);
    Buffer wide, d((size_t)s.out_width() * columns);
    Buffer met((size_t)s.out_width() * wide_depth), g((size_t)s.middle_width() * wide_middle);
    Buffer sums(thread_totals.size);
    float* first_sums = sums.data() + (size_t)3 * depth * columns;
#pragma omp for schedule(static)
    for (int clip = 0; clip < s.clips; clip++) {
      const float* clip_x = x + (size_t)clip * s.height * s.width;
      for (int out = 0, made = 0, finished = 0; out < s.out_height(); out++) {
        for (; made < std::min(2 * out + 2, s.middle_height()); made++) {
          fill_patches(s, clip_x, made, patches[made]);
          middle_row(s, patches[made], weight, rows[made], wide);
          std::fill_n(gradients.with_border(made), gradients.size, 0.f);
        }
        for (int place = 0; place < s.out_width(); place++) {
          const size_t at = (((size_t)clip * s.out_height() + out) * s.out_width() + place) * s.outputs;
#pragma omp simd
          for (int c = 0; c < s.outputs; c++) {
            const float masked = second[at + c] * scale[c] + bias[c] > 0 ? gradient[at + c] : 0.f;
            d[(size_t)place * columns + c] = factor[c] * masked + slope[c] * second[at + c] + shift[c];
          }
        }
        for (int dy = 0; dy < 3; dy++) {
          const int row = 2 * out + dy - 1;
          if (row < 0 || row >= s.middle_height()) continue;
          const Strided taps_first{rows.with_border(row), 1, 2 * s.middle};
          float* of_row = sums.data() + (size_t)dy * depth * columns;
          multiply(depth, columns, s.out_width(), taps_first, d.data(), of_row, true);
          const float* back = second_back + (size_t)dy * s.outputs * wide_depth;
          multiply(s.out_width(), wide_depth, s.outputs, {d.data(), columns, 1}, back, met.data(), false);
          for (int place = 0; place < s.out_width(); place++) {
            float* to = gradients.with_border(row) + (size_t)place * 2 * s.middle;
            for (int i = 0; i < depth; i++) to[i] += met[(size_t)place * wide_depth + i];
          }
        }
        const int complete = out + 1 == s.out_height() ? s.middle_height() : 2 * out + 1;  // rows before this one
        for (; finished < complete; finished++) {
          const float *h = rows[finished], *from = gradients[finished];
          for (int place = 0; place < s.middle_width(); place++, h += s.middle, from += s.middle)
            for (int c = 0; c < s.middle; c++) g[(size_t)place * wide_middle + c] = h[c] > 0 ? from[c] : 0.f;
          const Strided taps_first{patches[finished], 1, PATCH};
          multiply(TAPS + 1, wide_middle, s.middle_width(), taps_first, g.data(), first_sums, true);
        }
      }
      move_to_totals(sums.data(), sums.size(), thread_totals.of_thread());
    }
  }
  thread_totals.write(totals);
}
}
