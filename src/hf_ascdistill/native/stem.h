// Parts of CP-Mobile's stem that training and inference share.
#pragma once

#include "maps.h"

constexpr int TAPS = 9, PATCH = PADDING;  // columns of a patch: its taps, a one and zeros

struct StemSizes {
  int clips, height, width, middle, outputs;
  int middle_height() const { return (height - 1) / 2 + 1; }
  int middle_width() const { return (width - 1) / 2 + 1; }
  int out_height() const { return (middle_height() - 1) / 2 + 1; }
  int out_width() const { return (middle_width() - 1) / 2 + 1; }
};

// What the first convolution meets in one row of its output: patches (middle_width, PATCH).
inline void fill_patches(const StemSizes& s, const float* clip, int row, float* patches) {
  for (int dy = 0; dy < 3; dy++) {
    const int y = 2 * row + dy - 1;
    const float* from = clip + (ptrdiff_t)y * s.width - 1;
    for (int place = 0; place < s.middle_width(); place++) {
      const int x = 2 * place;  // in a row with a zero at both ends
      float* to = patches + (size_t)place * PATCH + 3 * dy;
      const bool has_row = y >= 0 && y < s.height;
      to[0] = has_row && x > 0 ? from[x] : 0.f;
      to[1] = has_row ? from[x + 1] : 0.f;
      to[2] = has_row && x + 1 < s.width ? from[x + 2] : 0.f;
    }
  }
  for (int place = 0; place < s.middle_width(); place++) patches[(size_t)place * PATCH + TAPS] = 1.f;
}

// The first convolution's row after normalisation, which is in the weight (TAPS + 1, padded middle), and ReLU.
inline void middle_row(const StemSizes& s, const float* patches, const float* weight, float* row, Buffer& wide) {
  multiply_to_dense(s.middle_width(), s.middle, TAPS + 1, {patches, PATCH, 1}, weight, row, wide);
  for (int i = 0; i < s.middle_width() * s.middle; i++) row[i] = std::max(row[i], 0.f);
}

// What the second convolution, of weight (3, 3 middle, padded outputs), makes of the first one's rows: a row of its
// output (out_width, padded outputs).
inline void second_row(const StemSizes& s, Rows& rows, const float* weight, int out, float* sums) {
  const int columns = padded(s.outputs), depth = 3 * s.middle;
  std::fill_n(sums, (size_t)s.out_width() * columns, 0.f);
  for (int dy = 0; dy < 3; dy++) {
    const int row = 2 * out + dy - 1;
    if (row < 0 || row >= s.middle_height()) continue;
    const float* taps = weight + (size_t)dy * depth * columns;
    multiply(s.out_width(), columns, depth, {rows.with_border(row), 2 * s.middle, 1}, taps, sums, true);
  }
}
