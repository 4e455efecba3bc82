// Parts of the training kernels: rows of maps, their moments, normalisation and its gradient.
//
// Maps are (clips, height, width, channels), float32. Sums over a clip are float32, those over clips float64.
#pragma once

#include "matrices.h"

#include <omp.h>

constexpr int BLOCK = 64;  // places whose rows are multiplied at once, at least

// Gradient of what a normalisation takes: g, the gradient of its result, times a factor, plus a line in its input.
struct NormGradient {
  const float *g, *input, *coefficients;  // coefficients (3, channels)
};

inline void apply(NormGradient of, size_t first, int places, int channels, float* out) {
  const float *factor = of.coefficients, *slope = factor + channels, *offset = slope + channels;
  for (int place = 0; place < places; place++) {
    const float *g = of.g + (first + place) * channels, *input = of.input + (first + place) * channels;
#pragma omp simd
    for (int c = 0; c < channels; c++)
      out[(size_t)place * channels + c] = factor[c] * g[c] + slope[c] * input[c] + offset[c];
  }
}

inline void scale_and_relu(const float* in, const float* scale, const float* bias, int places, int channels,
                           float* out) {
  for (int place = 0; place < places; place++, in += channels, out += channels)
#pragma omp simd
    for (int c = 0; c < channels; c++) out[c] = std::max(in[c] * scale[c] + bias[c], 0.f);
}

// Sums of a few hundred numbers are exact enough in float32; they are moved on before they grow longer.
inline void move_to_totals(float* sums, size_t count, double* totals) {
  for (size_t i = 0; i < count; i++) totals[i] += sums[i];
  std::fill_n(sums, count, 0.f);
}

// Float64 sums of parts of a batch, of clips or of what threads have done, which are joined in the order of the parts.
struct PartialSums {
  size_t size;
  std::vector<double> memory;
  PartialSums(int parts, size_t size) : size(size), memory(parts * size) {}
  double* of(int part) { return memory.data() + part * size; }
  double* of_thread() { return of(omp_get_thread_num()); }
  void write(double* out) const {
    std::fill_n(out, size, 0.);
    for (size_t first = 0; first < memory.size(); first += size)
      for (size_t i = 0; i < size; i++) out[i] += memory[first + i];
  }
};

// Does the work of each place of a map, which adds to `sums`; these are moved on a block at a time.
template <class Work>
inline void sum_over_places(size_t first, size_t end, int channels, Buffer& sums, double* totals, Work work) {
  for (size_t i = first, next; i < end; i = next) {
    for (next = std::min(end, i + (size_t)BLOCK * channels); i < next; i += channels) work(i);
    move_to_totals(sums.data(), sums.size(), totals);
  }
}

// Mean and sum of squared deviations of each channel over a clip. Sums are taken of the distance to the mean of the
// first places, for of squares of large numbers little is left once the square of their mean is subtracted.
struct Moments {
  int channels, places = 0;
  Buffer shift, sums;
  std::vector<double> totals;
  explicit Moments(int channels) : channels(channels), shift(channels), sums(2 * channels), totals(2 * channels) {}

  void add(const float* rows, int count) {
    if (places == 0) {
      for (int place = 0; place < count; place++)
        for (int c = 0; c < channels; c++) shift[c] += rows[(size_t)place * channels + c] / count;
    }
    places += count;
    float *origin = shift.data(), *first = sums.data(), *second = first + channels;
    for (int place = 0; place < count; place++, rows += channels)
#pragma omp simd
      for (int c = 0; c < channels; c++) {
        const float distance = rows[c] - origin[c];
        first[c] += distance;
        second[c] += distance * distance;
      }
    move_to_totals(sums.data(), sums.size(), totals.data());
  }

  void write(double* out) const {  // (2, channels)
    for (int c = 0; c < channels; c++) {
      const double mean = totals[c] / places;
      out[c] = shift[c] + mean;
      out[channels + c] = totals[channels + c] - mean * totals[c];
    }
  }
};

// Three rows of a padded map, by their number modulo 3, with a place of zeros at both ends, and a row of zeros.
struct Rows {
  size_t size;
  int channels;
  Buffer memory;
  Rows(int width, int channels) : size((size_t)(width + 2) * channels), channels(channels), memory(4 * size) {}
  float* with_border(int row) { return memory.data() + row % 3 * size; }
  float* operator[](int row) { return with_border(row) + channels; }
  const float* zeros() const { return memory.data() + 3 * size; }
};
