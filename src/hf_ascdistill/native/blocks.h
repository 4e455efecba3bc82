// Parts of CP-Mobile's inverted residual block that training and inference share.
//
// Maps are (clips, height, width, channels). Those of hidden channels have them padded to a multiple of PADDING, with
// weights, scales and biases of 0; those of input and output channels are dense.
#pragma once

#include "maps.h"

#include <cfloat>
#include <cmath>

struct BlockSizes {
  int clips, height, width, stride_height, stride_width, inputs, hidden, outputs;
  float epsilon;  // of the response normalisation
  int out_height() const { return (height - 1) / stride_height + 1; }
  int out_width() const { return (width - 1) / stride_width + 1; }
  int places() const { return height * width; }
  int out_places() const { return out_height() * out_width(); }
};

inline void expand_row(const BlockSizes& s, const float* x, const float* weight, const float* bias, float* row) {
  const StoredWithBiasAndRelu finish{row, s.hidden, bias};
  multiply(s.width, s.hidden, s.inputs, {x, s.inputs, 1}, weight, nullptr, finish);
}

// The depthwise convolution of three rows; `finish` works on its sums of channels from the second argument on.
template <class Finish>
inline void depthwise_row(const float* const rows[3], const float* weight, int places, int stride, int channels,
                          float* out, Finish finish) {
  for (int c = 0; c < channels; c += LANES) {
    Vector taps[9];
    for (int tap = 0; tap < 9; tap++) taps[tap] = load(weight + tap * channels + c);
    for (int place = 0; place < places; place++) {
      Vector sum{};
#pragma GCC unroll 3
      for (int dy = 0; dy < 3; dy++)
#pragma GCC unroll 3
        for (int dx = 0; dx < 3; dx++)
          sum += taps[3 * dy + dx] * load(rows[dy] + (ptrdiff_t)(place * stride + dx) * channels + c);
      store(out + (ptrdiff_t)place * channels + c, finish(sum, c));
    }
  }
}

// The pool of the shortcut: averages of 3x3 places, zeros around the map among them.
inline void pool_rows(const BlockSizes& s, const float* x, int first, int end, float* pooled) {
  for (int row = first; row < end; row++)
    for (int place = 0; place < s.out_width(); place++) {
      float* to = pooled + ((size_t)row * s.out_width() + place) * s.inputs;
      std::fill_n(to, s.inputs, 0.f);
      for (int dy = 0; dy < 3; dy++)
        for (int dx = 0; dx < 3; dx++) {
          const int y = row * s.stride_height + dy - 1, at = place * s.stride_width + dx - 1;
          if (y < 0 || y >= s.height || at < 0 || at >= s.width) continue;
          const float* from = x + ((size_t)y * s.width + at) * s.inputs;
#pragma omp simd
          for (int c = 0; c < s.inputs; c++) to[c] += from[c];
        }
      for (int c = 0; c < s.inputs; c++) to[c] /= 9;
    }
}

inline float mean_of(const float* numbers, int count) {
  double sum = 0;
  for (int i = 0; i < count; i++) sum += numbers[i];
  return sum / count;
}
