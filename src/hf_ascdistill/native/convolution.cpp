// Convolution of clips with impulse responses by fast Fourier transforms on a CPU: what convolution.py calls.
//
// A clip x of up to 2 M real samples becomes M complex numbers z[n] = (x[n] + i x[n + M]) w^n with w = exp(i pi / 2 M).
// The product of two such transforms is that of a negacyclic convolution of length 2 M (a right-angle convolution), of
// which nothing wraps around where clip and response together are no longer than 2 M; and, unlike that of real
// spectra, it needs no pairing of frequencies, so that they may lie in any order. The M numbers are rows of LINE = 16:
// transforms along the columns work on 16 numbers at a time, those along the rows are one product of matrices.
#include "matrices.h"

#include <cmath>
#include <cstring>
#include <omp.h>

constexpr int LINE = 16, REALS = 2 * LINE;  // complex numbers in a row, and floats: 16 real parts, 16 imaginary ones

struct ConvolutionSizes {
  int clips, samples, rows;
};

typedef float Line __attribute__((vector_size(4 * LINE), may_alias));
struct Complex {
  Line re, im;
};

static inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
static inline Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
static inline Complex operator*(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
static inline Complex conjugate(Complex a) { return {a.re, -a.im}; }
static inline Complex times_i(Complex a) { return {-a.im, a.re}; }
static inline Complex turned(Complex a, const float* turn, int direction) {  // a (turn[0] + i direction turn[1])
  const float c = turn[0], s = direction > 0 ? turn[1] : -turn[1];
  return {a.re * c - a.im * s, a.re * s + a.im * c};
}
static inline Complex read(const float* at) {
  Complex numbers;
  std::memcpy(&numbers, at, sizeof numbers);
  return numbers;
}

// Where the parts of the tables lie, which the kernels share.
struct Tables {
  const float *weights, *twists, *matrix, *inverse, *turns;
  Tables(const float* at, int rows)
      : weights(at), twists(at + (size_t)rows * REALS), matrix(twists + (size_t)rows * REALS),
        inverse(matrix + REALS * REALS), turns(inverse + REALS * REALS) {}
};

static int radix_of(int size) { return size % 4 == 0 ? 4 : size % 2 == 0 ? 2 : 3; }

// Which frequency a transform of `size` rows leaves in a row.
static int frequency_in(int row, int size) {
  if (size == 1) return 0;
  const int radix = radix_of(size), part = size / radix;
  return row / part + radix * frequency_in(row % part, part);
}

// The transform of RADIX rows, back where `direction` is 1.
template <int RADIX>
static inline void butterfly(Complex (&x)[RADIX], int direction) {
  if constexpr (RADIX == 4) {
    const Complex a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = times_i(x[1] - x[3]);
    x[0] = a + c;
    x[1] = direction > 0 ? b + d : b - d;
    x[2] = a - c;
    x[3] = direction > 0 ? b - d : b + d;
  } else if constexpr (RADIX == 2) {
    const Complex a = x[0], b = x[1];
    x[0] = a + b;
    x[1] = a - b;
  } else {
    const float half_chord = std::sqrt(.75f) * direction;
    const Complex sum = x[1] + x[2], rest = times_i(x[1] - x[2]);
    const Complex centre = {x[0].re - .5f * sum.re, x[0].im - .5f * sum.im};
    const Complex side = {rest.re * half_chord, rest.im * half_chord};
    x[0] = x[0] + sum;
    x[1] = centre + side;
    x[2] = centre - side;
  }
}

// A step of the transform: RADIX parts become as many independent smaller transforms.
template <int RADIX>
static void divide(Complex* x, int part, const float* turns) {
  for (int row = 0; row < part; row++) {
    Complex rows[RADIX];
#pragma GCC unroll 4
    for (int k = 0; k < RADIX; k++) rows[k] = x[row + k * part];
    butterfly(rows, -1);
    x[row] = rows[0];
#pragma GCC unroll 4
    for (int k = 1; k < RADIX; k++, turns += 2) x[row + k * part] = turned(rows[k], turns, -1);
  }
}

template <int RADIX>
static void unite(Complex* x, int part, const float* turns) {
  for (int row = 0; row < part; row++) {
    Complex rows[RADIX];
    rows[0] = x[row];
#pragma GCC unroll 4
    for (int k = 1; k < RADIX; k++, turns += 2) rows[k] = turned(x[row + k * part], turns, 1);
    butterfly(rows, 1);
#pragma GCC unroll 4
    for (int k = 0; k < RADIX; k++) x[row + k * part] = rows[k];
  }
}

// Transforms along the columns, in place; the frequencies come out as frequency_in says.
static void transform(Complex* x, int size, const float* turns) {
  if (size == 1) return;
  const int radix = radix_of(size), part = size / radix;
  (radix == 4 ? divide<4> : radix == 2 ? divide<2> : divide<3>)(x, part, turns);
  for (int k = 0; k < radix; k++) transform(x + k * part, part, turns + 2 * (radix - 1) * part);
}

// Undoes it, but for a factor of `size`.
static void transform_back(Complex* x, int size, const float* turns) {
  if (size == 1) return;
  const int radix = radix_of(size), part = size / radix;
  for (int k = 0; k < radix; k++) transform_back(x + k * part, part, turns + 2 * (radix - 1) * part);
  (radix == 4 ? unite<4> : radix == 2 ? unite<2> : unite<3>)(x, part, turns);
}

static Line read_samples(const float* x, int from, int samples) {
  Line line{};
  if (from + LINE <= samples) std::memcpy(&line, x + from, sizeof line);
  else if (from < samples) std::memcpy(&line, x + from, sizeof(float) * (samples - from));
  return line;
}

static void write_samples(Line line, float* x, int from, int samples) {
  if (from + LINE <= samples) std::memcpy(x + from, &line, sizeof line);
  else if (from < samples) std::memcpy(x + from, &line, sizeof(float) * (samples - from));
}

// x (samples) -> spectrum (rows, REALS).
static void spectrum_of(const float* x, int samples, int rows, const Tables& tables, Buffer& work, float* spectrum) {
  Complex* z = reinterpret_cast<Complex*>(work.data());
  for (int row = 0; row < rows; row++) {
    const int from = row * LINE;
    const Complex folded{read_samples(x, from, samples), read_samples(x, from + rows * LINE, samples)};
    z[row] = folded * read(tables.weights + (size_t)row * REALS);
  }
  transform(z, rows, tables.turns);
  for (int row = 0; row < rows; row++) z[row] = z[row] * read(tables.twists + (size_t)row * REALS);
  multiply(rows, REALS, REALS, {work.data(), REALS, 1}, tables.matrix, spectrum, false);
}

extern "C" {

// What all convolutions of this size share.
void convolution_tables(const ConvolutionSizes* sizes, int, float* tables) {
  const int rows = sizes->rows, count = rows * LINE;
  float *weights = tables, *twists = weights + (size_t)rows * REALS, *matrix = twists + (size_t)rows * REALS;
  float *inverse = matrix + REALS * REALS, *turns = inverse + REALS * REALS;
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < LINE; i++) {
      const double weight = M_PI / 2 / count * (row * LINE + i);
      const double twist = -2 * M_PI / count * (double)i * frequency_in(row, rows);
      weights[(size_t)row * REALS + i] = std::cos(weight);
      weights[(size_t)row * REALS + LINE + i] = std::sin(weight);
      twists[(size_t)row * REALS + i] = std::cos(twist);
      twists[(size_t)row * REALS + LINE + i] = std::sin(twist);
    }
  for (int i = 0; i < LINE; i++)
    for (int k = 0; k < LINE; k++) {
      const double c = std::cos(2 * M_PI / LINE * i * k), s = std::sin(2 * M_PI / LINE * i * k);
      matrix[i * REALS + k] = matrix[(LINE + i) * REALS + LINE + k] = c;
      matrix[i * REALS + LINE + k] = -s;
      matrix[(LINE + i) * REALS + k] = s;
      inverse[i * REALS + k] = inverse[(LINE + i) * REALS + LINE + k] = c / count;
      inverse[i * REALS + LINE + k] = s / count;
      inverse[(LINE + i) * REALS + k] = -s / count;
    }
  for (int size = rows; size > 1; size /= radix_of(size))
    for (int row = 0; row < size / radix_of(size); row++)
      for (int k = 1; k < radix_of(size); k++) {
        *turns++ = std::cos(2 * M_PI / size * row * k);
        *turns++ = std::sin(2 * M_PI / size * row * k);
      }
}

// responses (clips, samples) -> spectra (clips, rows, REALS).
void response_spectra(const ConvolutionSizes* sizes, int threads, const float* responses, const float* tables,
                      float* spectra) {
  const ConvolutionSizes s = *sizes;
#pragma omp parallel num_threads(threads)
  {
    Buffer work((size_t)s.rows * REALS);
#pragma omp for schedule(static)
    for (int i = 0; i < s.clips; i++)
      spectrum_of(responses + (size_t)i * s.samples, s.samples, s.rows, Tables(tables, s.rows), work,
                  spectra + (size_t)i * s.rows * REALS);
  }
}

// waveform (clips, samples) -> convolved (clips, samples): each clip with the response of its number in `chosen`
// (clips), and unchanged where that is negative.
void convolve(const ConvolutionSizes* sizes, int threads, const float* waveform, const long long* chosen,
              const float* spectra, const float* table, float* convolved) {
  const ConvolutionSizes s = *sizes;
  const Tables tables(table, s.rows);
#pragma omp parallel num_threads(threads)
  {
    Buffer work((size_t)s.rows * REALS), product((size_t)s.rows * REALS);
#pragma omp for schedule(dynamic)
    for (int clip = 0; clip < s.clips; clip++) {
      const float* x = waveform + (size_t)clip * s.samples;
      float* y = convolved + (size_t)clip * s.samples;
      if (chosen[clip] < 0) {
        std::copy_n(x, s.samples, y);
        continue;
      }
      spectrum_of(x, s.samples, s.rows, tables, work, product.data());
      const float* response = spectra + (size_t)chosen[clip] * s.rows * REALS;
      Complex* z = reinterpret_cast<Complex*>(product.data());
      for (int row = 0; row < s.rows; row++) z[row] = z[row] * read(response + (size_t)row * REALS);
      multiply(s.rows, REALS, REALS, {product.data(), REALS, 1}, tables.inverse, work.data(), false);
      z = reinterpret_cast<Complex*>(work.data());
      for (int row = 0; row < s.rows; row++) z[row] = z[row] * conjugate(read(tables.twists + (size_t)row * REALS));
      transform_back(z, s.rows, tables.turns);
      for (int row = 0; row < s.rows; row++) {
        const Complex unfolded = z[row] * conjugate(read(tables.weights + (size_t)row * REALS));
        write_samples(unfolded.re, y, row * LINE, s.samples);
        write_samples(unfolded.im, y, (row + s.rows) * LINE, s.samples);
      }
    }
  }
}
}
