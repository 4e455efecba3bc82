// Convolution of clips with impulse responses by fast Fourier transforms on a CPU: what convolution.py calls.
//
// A clip x of up to 2 M real samples becomes M complex numbers z[n] = (x[n] + i x[n + M]) w^n with w = exp(i pi / 2 M).
// The product of two such transforms is that of a negacyclic convolution of length 2 M (a right-angle convolution), of
// which nothing wraps around where clip and response together are no longer than 2 M; and, unlike that of real
// spectra, it needs no pairing of frequencies, so that they may lie in any order. The M numbers are rows of LANES:
// transforms along the columns work on LANES numbers at a time, those along the rows are one product of matrices.
#include "fourier.h"

struct ConvolutionSizes {
  int clips, samples, numbers;  // complex numbers of a transform, M
  int rows() const { return numbers / LANES; }
};

// Where the parts of the tables lie, which the kernels share.
struct Tables {
  const float *weights, *twists, *matrix, *inverse, *turns;
  Tables(const float* at, int rows)
      : weights(at), twists(at + (size_t)rows * REALS), matrix(twists + (size_t)rows * REALS),
        inverse(matrix + REALS * REALS), turns(inverse + REALS * REALS) {}
};

static Vector read_samples(const float* x, int from, int samples) {
  Vector line{};
  if (from + LANES <= samples) return load(x + from);
  if (from < samples) std::memcpy(&line, x + from, sizeof(float) * (samples - from));
  return line;
}

static void write_samples(Vector line, float* x, int from, int samples) {
  if (from + LANES <= samples) store(x + from, line);
  else if (from < samples) std::memcpy(x + from, &line, sizeof(float) * (samples - from));
}

// x (samples) -> spectrum (rows, REALS).
static void spectrum_of(const float* x, int samples, int rows, const Tables& tables, Buffer& work, float* spectrum) {
  Complex* z = reinterpret_cast<Complex*>(work.data());
  for (int row = 0; row < rows; row++) {
    const int from = row * LANES;
    const Complex folded{read_samples(x, from, samples), read_samples(x, from + rows * LANES, samples)};
    z[row] = folded * read(tables.weights + (size_t)row * REALS);
  }
  transform(z, rows, tables.turns);
  for (int row = 0; row < rows; row++) z[row] = z[row] * read(tables.twists + (size_t)row * REALS);
  multiply(rows, REALS, REALS, {work.data(), REALS, 1}, tables.matrix, spectrum, false);
}

extern "C" {

// What all convolutions of this size share.
void convolution_tables(const ConvolutionSizes* sizes, int, float* tables) {
  const int rows = sizes->rows(), count = sizes->numbers;
  float *weights = tables, *twists = weights + (size_t)rows * REALS, *matrix = twists + (size_t)rows * REALS;
  float *inverse = matrix + REALS * REALS, *turns = inverse + REALS * REALS;
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < LANES; i++) {
      const double weight = M_PI / 2 / count * (row * LANES + i);
      const double twist = -2 * M_PI / count * (double)i * frequency_in(row, rows);
      weights[(size_t)row * REALS + i] = std::cos(weight);
      weights[(size_t)row * REALS + LANES + i] = std::sin(weight);
      twists[(size_t)row * REALS + i] = std::cos(twist);
      twists[(size_t)row * REALS + LANES + i] = std::sin(twist);
    }
  for (int i = 0; i < LANES; i++)
    for (int k = 0; k < LANES; k++) {
      const double c = std::cos(2 * M_PI / LANES * i * k), s = std::sin(2 * M_PI / LANES * i * k);
      matrix[i * REALS + k] = matrix[(LANES + i) * REALS + LANES + k] = c;
      matrix[i * REALS + LANES + k] = -s;
      matrix[(LANES + i) * REALS + k] = s;
      inverse[i * REALS + k] = inverse[(LANES + i) * REALS + LANES + k] = c / count;
      inverse[i * REALS + LANES + k] = s / count;
      inverse[(LANES + i) * REALS + k] = -s / count;
    }
  fill_turns(rows, turns);
}

// responses (clips, samples) -> spectra (clips, rows, REALS).
void response_spectra(const ConvolutionSizes* sizes, int threads, const float* responses, const float* tables,
                      float* spectra) {
  const ConvolutionSizes s = *sizes;
#pragma omp parallel num_threads(threads)
  {
    Buffer work((size_t)s.rows() * REALS);
#pragma omp for schedule(static)
    for (int i = 0; i < s.clips; i++)
      spectrum_of(responses + (size_t)i * s.samples, s.samples, s.rows(), Tables(tables, s.rows()), work,
                  spectra + (size_t)i * s.rows() * REALS);
  }
}

// waveform (clips, samples) -> convolved (clips, samples): each clip with the response of its number in `chosen`
// (clips), and unchanged where that is negative.
void convolve(const ConvolutionSizes* sizes, int threads, const float* waveform, const long long* chosen,
              const float* spectra, const float* table, float* convolved) {
  const ConvolutionSizes s = *sizes;
  const Tables tables(table, s.rows());
#pragma omp parallel num_threads(threads)
  {
    Buffer work((size_t)s.rows() * REALS), product((size_t)s.rows() * REALS);
#pragma omp for schedule(dynamic)
    for (int clip = 0; clip < s.clips; clip++) {
      const float* x = waveform + (size_t)clip * s.samples;
      float* y = convolved + (size_t)clip * s.samples;
      if (chosen[clip] < 0) {
        std::copy_n(x, s.samples, y);
        continue;
      }
      spectrum_of(x, s.samples, s.rows(), tables, work, product.data());
      const float* response = spectra + (size_t)chosen[clip] * s.rows() * REALS;
      Complex* z = reinterpret_cast<Complex*>(product.data());
      for (int row = 0; row < s.rows(); row++) z[row] = z[row] * read(response + (size_t)row * REALS);
      multiply(s.rows(), REALS, REALS, {product.data(), REALS, 1}, tables.inverse, work.data(), false);
      z = reinterpret_cast<Complex*>(work.data());
      for (int row = 0; row < s.rows(); row++) z[row] = z[row] * conjugate(read(tables.twists + (size_t)row * REALS));
      transform_back(z, s.rows(), tables.turns);
      for (int row = 0; row < s.rows(); row++) {
        const Complex unfolded = z[row] * conjugate(read(tables.weights + (size_t)row * REALS));
        write_samples(unfolded.re, y, row * LANES, s.samples);
        write_samples(unfolded.im, y, (row + s.rows()) * LANES, s.samples);
      }
    }
  }
}
}
