// Log-mel spectrograms of clips on a CPU: what log_mel.py calls.
//
// LANES frames of a clip are transformed at once, one in each lane of the vectors, so that nothing is shuffled but the
// signal: its hops become columns, of which a row of neighbours is what as many frames have at one place. Each group of
// frames is the work of one thread.
#include "fourier.h"

struct LogMelSettings {
  int clips, samples, n_fft, win_length, hop_length, n_mels;
  float preemphasis, log_offset, shift, scale;
  double lowest, step;  // fmin, and the distance between filters, in mel
  int frames() const { return (samples - 1) / hop_length + 1; }
  int rows() const { return n_fft / 2; }
};

// Part of the emphasised signal, reflected at its ends and followed by zeros, from its sample `first` on.
static void emphasise(const LogMelSettings& s, const float* x, int first, int count, float* signal) {
  const int before = (s.win_length + 1) / 2, size = s.samples - 1;
  const int zero = first - before, end = before + size - first, last = size + s.win_length - first;
  const auto sample = [&](int i) { return x[i + 1] - s.preemphasis * x[i]; };
  int n = 0;
  for (; n < std::min(count, -zero); n++) signal[n] = sample(-(zero + n));
  for (; n < std::min(count, end); n++) signal[n] = sample(zero + n);
  for (; n < std::min(count, last); n++) signal[n] = sample(2 * (size - 1) - (zero + n));
  for (; n < count; n++) signal[n] = 0.f;
}

// Hops of a signal as columns: (hop_length, columns).
static void lay_out_hops(const float* signal, int hop_length, int columns, float* hops) {
  for (int column = 0; column < columns; column += LANES)
    for (int row = 0; row < hop_length; row += LANES) {
      Vector block[LANES];
#pragma GCC unroll 16
      for (int i = 0; i < LANES; i++) block[i] = load(signal + (size_t)(column + i) * hop_length + row);
      transpose(block);
      const int height = std::min(LANES, hop_length - row);
      for (int i = 0; i < height; i++) store(hops + (size_t)(row + i) * columns + column, block[i]);
    }
}

// Natural logarithm of positive numbers that are no denormals; NaN stays NaN, infinity becomes it.
static Vector logarithm(Vector x) {
  typedef int Integers __attribute__((vector_size(4 * LANES)));
  const Integers bits = (Integers)x, from_root = bits - 0x3f3504f3;  // x = 2^e m with sqrt(1/2) <= m < sqrt(2)
  const Integers e = from_root >> 23;
  const Vector m = (Vector)(bits - (e << 23)), s = (m - 1.f) / (m + 1.f), z = s * s;  // ln m = 2 artanh s
  const Vector series = s * z * (2 / 3.f + z * (2 / 5.f + z * (2 / 7.f + z * (2 / 9.f))));
  const Vector exponent = __builtin_convertvector(e, Vector);
  return exponent * 0.693359375f + (2 * s + (series - exponent * 2.12194440e-4f)) + (x - x);
}

// Energies of a filter in LANES frames -> the output's row.
static void write_filter(const LogMelSettings& s, Vector energies, float* out, int count) {
  const Vector values = (logarithm(energies + s.log_offset) + s.shift) / s.scale;
  std::memcpy(out, &values, sizeof(float) * count);
}

// Where bins lie among the filters: `part` of the way from `filter` to the next one. Filter 1 is the first.
struct Bins {
  std::vector<int> filter;
  std::vector<float> part;
  Bins(const LogMelSettings& s, const double* mels) : filter(s.rows()), part(s.rows()) {
    for (int bin = 0; bin < s.rows(); bin++) {
      const double place = std::min(std::max((mels[bin] - s.lowest) / s.step, -1.), s.n_mels + 1.);
      filter[bin] = (int)std::floor(place);
      part[bin] = place - std::floor(place);
    }
  }
};

// Sums of powers in filters -1 to n_mels + 2; those before the first and behind the last one are for what no filter
// takes.
struct Filters {
  const int* filter;
  const float* part;
  Vector* sums;
  void add(int bin, Vector power) const {
    Vector* sum = sums + filter[bin] + 1;
    const Vector upper = power * part[bin];
    sum[0] += power - upper;
    sum[1] += upper;
  }
  Vector operator[](int number) const { return sums[number + 1]; }
};

// Complex transforms of real signals, even samples in real parts and odd ones in imaginary ones -> their powers, which
// go into the filters. The signals are halves of the true ones.
static void filter_powers(const Complex* z, int rows, const int* row_of, const int* order, const float* turns,
                          Filters filters) {
  const Complex first = z[row_of[0]];
  filters.add(0, 4 * (first.re + first.im) * (first.re + first.im));
  for (int i = 0; i < (rows - 1) / 2; i++) {
    const int k = order[i];
    const Complex low = z[row_of[k]], high = conjugate(z[row_of[rows - k]]);
    const Complex even = low + high, odd = low - high;  // spectra of even samples, and of odd ones times i
    const Complex rest = turned({odd.im, -odd.re}, turns + 2 * k, -1);
    const Complex sum = even + rest, difference = even - rest;
    filters.add(k, sum.re * sum.re + sum.im * sum.im);
    filters.add(rows - k, difference.re * difference.re + difference.im * difference.im);
  }
  if (rows % 2 == 0) {
    const Complex middle = z[row_of[rows / 2]];
    filters.add(rows / 2, 4 * (middle.re * middle.re + middle.im * middle.im));
  }
}

extern "C" {

// What all transforms of this size share: the turns of their steps (n_fft) and those of the step from complex to real
// ones (n_fft / 2 + 2), the row of each frequency (n_fft / 2), and frequencies in the order of their rows (n_fft / 4),
// those that have a mirror image, from the lower half.
void log_mel_tables(const LogMelSettings* settings, int, float* turns, float* half_turns, int* row_of, int* order) {
  const int rows = settings->rows();
  fill_turns(rows, turns);
  for (int k = 0; k <= rows / 2; k++) {
    half_turns[2 * k] = std::cos(M_PI / rows * k);
    half_turns[2 * k + 1] = std::sin(M_PI / rows * k);
  }
  for (int row = 0; row < rows; row++) {
    const int k = frequency_in(row, rows);
    row_of[k] = row;
    if (k > 0 && 2 * k < rows) *order++ = k;
  }
}

// waveform (clips, samples) -> log_mels (clips, n_mels, frames). window (win_length), a half of the usual one; mels
// (n_fft / 2), what the bins are in mel.
void log_mel(const LogMelSettings* settings, int threads, const float* waveform, const float* window,
             const double* mels, const float* turns, const float* half_turns, const int* row_of, const int* order,
             float* log_mels) {
  const LogMelSettings s = *settings;
  const int frames = s.frames(), rows = s.rows(), groups = (frames + LANES - 1) / LANES;
  const int columns = padded(LANES + (s.win_length - 1) / s.hop_length), count = columns * s.hop_length;
  const Bins bins(s, mels);
#pragma omp parallel num_threads(threads)
  {
    Buffer signal(count + LANES), hops(count), memory((size_t)rows * REALS), sums((size_t)(s.n_mels + 4) * LANES);
    Complex* z = reinterpret_cast<Complex*>(memory.data());
    Vector* windowed = reinterpret_cast<Vector*>(memory.data());
    const Filters filters{bins.filter.data(), bins.part.data(), reinterpret_cast<Vector*>(sums.data())};
#pragma omp for schedule(static)
    for (int item = 0; item < s.clips * groups; item++) {
      const int clip = item / groups, frame = item % groups * LANES;
      emphasise(s, waveform + (size_t)clip * s.samples, frame * s.hop_length, count, signal.data());
      lay_out_hops(signal.data(), s.hop_length, columns, hops.data());
      for (int n = 0; n < s.win_length; n += s.hop_length) {
        const int end = std::min(s.hop_length, s.win_length - n);
        const float* from = hops.data() + n / s.hop_length;
        for (int i = 0; i < end; i++) windowed[n + i] = load(from + (size_t)i * columns) * window[n + i];
      }
      std::fill(memory.begin() + (size_t)s.win_length * LANES, memory.end(), 0.f);
      transform(z, rows, turns);
      std::fill(sums.begin(), sums.end(), 0.f);
      filter_powers(z, rows, row_of, order, half_turns, filters);
      float* out = log_mels + (size_t)clip * s.n_mels * frames + frame;
      for (int m = 0; m < s.n_mels; m++, out += frames)
        write_filter(s, filters[m + 1], out, std::min(LANES, frames - frame));
    }
  }
}
}
