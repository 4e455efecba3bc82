// Batch normalisation in training on a CPU, in float64 and from sums over the batch: what normalization.py calls.
#include "matrices.h"

#include <cmath>

struct NormSizes {
  int clips, places, inputs, channels, padded;  // of a map; `inputs` are those of an expansion
  float epsilon, momentum;
  double count() const { return (double)clips * places; }
};

// What a normalisation knows of its batch, numbers (4, channels): its result is input * scale + shift.
struct Statistics {
  double *mean, *inverse, *scale, *shift;
  Statistics(double* numbers, int channels)
      : mean(numbers), inverse(mean + channels), scale(inverse + channels), shift(scale + channels) {}
};

// Works out the statistics from the mean, which is there, and the biased variance. The running ones move towards them.
static void finish_statistics(const NormSizes& s, const double* variance, const float* gain, const float* offset,
                              float* running_mean, float* running_variance, const Statistics& to) {
  const double count = s.count();
  for (int c = 0; c < s.channels; c++) {
    to.inverse[c] = 1 / std::sqrt(variance[c] + s.epsilon);
    to.scale[c] = to.inverse[c] * gain[c];
    to.shift[c] = offset[c] - to.mean[c] * to.scale[c];
    running_mean[c] += s.momentum * (to.mean[c] - running_mean[c]);
    running_variance[c] += s.momentum * (variance[c] * count / (count - 1) - running_variance[c]);
  }
}

// out (rows, columns) = a (rows, depth) b (depth, columns).
static void multiply_exactly(int threads, int rows, int columns, int depth, const double* a, const double* b,
                             double* out) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int row = 0; row < rows; row++) {
    double* to = out + (size_t)row * columns;
    std::fill_n(to, columns, 0.);
    int k = 0;
    for (; k + 4 <= depth; k += 4) {  // four at a time, so that sums are read and written less often
      const double *left = a + (size_t)row * depth + k, *right = b + (size_t)k * columns;
#pragma omp simd
      for (int c = 0; c < columns; c++)
        to[c] += left[0] * right[c] + left[1] * right[columns + c] + left[2] * right[2 * columns + c] +
                 left[3] * right[3 * columns + c];
    }
    for (; k < depth; k++)
#pragma omp simd
      for (int c = 0; c < columns; c++) to[c] += a[(size_t)row * depth + k] * b[(size_t)k * columns + c];
  }
}

// An expansion's weight W (inputs, channels) in float64, from the layer's (channels, inputs).
static std::vector<double> transposed(const NormSizes& s, const float* weight) {
  std::vector<double> turned((size_t)s.inputs * s.channels);
  for (int c = 0; c < s.inputs; c++)
    for (int e = 0; e < s.channels; e++) turned[(size_t)c * s.channels + e] = weight[(size_t)e * s.inputs + c];
  return turned;
}

// Gradients (2, channels) of gain and offset, and the coefficients of that of the input, line (3, channels).
static void work_out_gradients(const NormSizes& s, const double* total, const double* product, double* numbers,
                               float* gradients, double* line) {
  const Statistics norm(numbers, s.channels);
  double *factor = line, *slope = factor + s.channels, *constant = slope + s.channels;
  const double count = s.count();
  for (int c = 0; c < s.channels; c++) {
    const double of_gain = product[c] * norm.inverse[c];
    gradients[c] = of_gain;
    gradients[s.channels + c] = total[c];
    factor[c] = norm.scale[c];
    slope[c] = -norm.scale[c] * norm.inverse[c] * of_gain / count;
    constant[c] = -norm.scale[c] * total[c] / count - slope[c] * norm.mean[c];
  }
}

extern "C" {

// Joins the moments of clips, moments (clips, 2, padded): means and sums of squared deviations (Chan et al., 1979).
// numbers (4, channels); folded (3, padded): scale, shift and mean.
void batch_statistics(const NormSizes* sizes, int, const double* moments, const float* gain, const float* offset,
                      float* running_mean, float* running_variance, double* numbers, float* folded) {
  const NormSizes s = *sizes;
  const Statistics to(numbers, s.channels);
  std::vector<double> variance(s.channels);
  std::fill_n(to.mean, s.channels, 0.);
  for (int clip = 0; clip < s.clips; clip++)
#pragma omp simd
    for (int c = 0; c < s.channels; c++) to.mean[c] += moments[(size_t)clip * 2 * s.padded + c] / s.clips;
  for (int clip = 0; clip < s.clips; clip++) {
    const double *means = moments + (size_t)clip * 2 * s.padded, *squares = means + s.padded;
#pragma omp simd
    for (int c = 0; c < s.channels; c++) {
      const double distance = means[c] - to.mean[c];
      variance[c] += (squares[c] / s.places + distance * distance) / s.clips;
    }
  }
  finish_statistics(s, variance.data(), gain, offset, running_mean, running_variance, to);
  std::fill_n(folded, 3 * (size_t)s.padded, 0.f);
  std::copy_n(to.scale, s.channels, folded);
  std::copy_n(to.shift, s.channels, folded + s.padded);
  std::copy_n(to.mean, s.channels, folded + 2 * (size_t)s.padded);
}

// sums (2, padded): of the gradient g of the result, and of g times the distance of the input from its mean.
// gradients (2, channels): of gain and offset. line (3, padded): that of the input is line[0] g + line[1] input +
// line[2].
void norm_gradients(const NormSizes* sizes, int, const double* sums, double* numbers, float* gradients,
                    float* line) {
  const NormSizes s = *sizes;
  std::vector<double> exact(3 * (size_t)s.channels);
  work_out_gradients(s, sums, sums + s.padded, numbers, gradients, exact.data());
  std::fill_n(line, 3 * (size_t)s.padded, 0.f);
  for (int row = 0; row < 3; row++)
    std::copy_n(exact.data() + (size_t)row * s.channels, s.channels, line + (size_t)row * s.padded);
}

// A product x W and its normalisation from sums over all places: totals (inputs + 1, padded inputs) are d^T d and,
// below it, the sums of d, the distances of x from shift (inputs). weight (channels, inputs) is W^T. mean (inputs) is
// that of x; moments (inputs, channels) are K W, where K is the covariance of x; numbers (4, channels). folded
// (inputs + 1, padded) is the weight of both and below it the bias; back (padded, padded inputs) is it transposed.
void expansion(const NormSizes* sizes, int threads, const double* totals, const float* shift, const float* weight,
               const float* gain, const float* offset, float* running_mean, float* running_variance, double* mean,
               double* moments, double* numbers, float* folded, float* back) {
  const NormSizes s = *sizes;
  const Statistics to(numbers, s.channels);
  const int step = padded(s.inputs);
  const std::vector<double> turned = transposed(s, weight);
  std::vector<double> covariance((size_t)s.inputs * s.inputs), variance(s.channels);
  const double *sums = totals + (size_t)s.inputs * step, count = s.count();
  for (int i = 0; i < s.inputs; i++) {
    mean[i] = shift[i] + sums[i] / count;
    for (int k = 0; k < s.inputs; k++)
      covariance[(size_t)i * s.inputs + k] = totals[(size_t)i * step + k] / count - sums[i] / count * (sums[k] / count);
  }
  multiply_exactly(threads, s.inputs, s.channels, s.inputs, covariance.data(), turned.data(), moments);
  multiply_exactly(1, 1, s.channels, s.inputs, mean, turned.data(), to.mean);
  for (int i = 0; i < s.inputs; i++)
#pragma omp simd
    for (int c = 0; c < s.channels; c++)
      variance[c] += turned[(size_t)i * s.channels + c] * moments[(size_t)i * s.channels + c];
  for (double& number : variance) number = std::max(number, 0.);
  finish_statistics(s, variance.data(), gain, offset, running_mean, running_variance, to);
  std::fill_n(folded, (size_t)(s.inputs + 1) * s.padded, 0.f);
  std::fill_n(back, (size_t)s.padded * step, 0.f);
  for (int i = 0; i < s.inputs; i++)
    for (int c = 0; c < s.channels; c++)
      back[(size_t)c * step + i] = folded[(size_t)i * s.padded + c] = turned[(size_t)i * s.channels + c] * to.scale[c];
  std::copy_n(to.shift, s.channels, folded + (size_t)s.inputs * s.padded);
}

// sums (inputs + 1, padded): x^T g and, below it, the sums of g, the gradient of the normalisation's result; the others
// are as above. of_weight (channels, inputs); gradients (2, channels) of gain and offset. The gradient of x is that of
// the folded product plus x through (inputs, padded inputs) plus through's last row (inputs + 1 in all).
void expansion_gradients(const NormSizes* sizes, int threads, const double* sums, const float* weight,
                         const double* mean, const double* moments, double* numbers, float* of_weight,
                         float* gradients, float* through) {
  const NormSizes s = *sizes;
  const Statistics norm(numbers, s.channels);
  const double *total = sums + (size_t)s.inputs * s.padded, count = s.count();
  const std::vector<double> turned = transposed(s, weight);
  std::vector<double> product(s.channels), line(3 * (size_t)s.channels);
  for (int i = 0; i < s.inputs; i++)
#pragma omp simd
    for (int c = 0; c < s.channels; c++)
      product[c] += turned[(size_t)i * s.channels + c] * sums[(size_t)i * s.padded + c];
  for (int c = 0; c < s.channels; c++) product[c] -= norm.mean[c] * total[c];
  work_out_gradients(s, total, product.data(), numbers, gradients, line.data());
  const double *factor = line.data(), *slope = factor + s.channels, *constant = slope + s.channels;
  for (int i = 0; i < s.inputs; i++)
    for (int c = 0; c < s.channels; c++) {
      const double moment = moments[(size_t)i * s.channels + c] + mean[i] * norm.mean[c];
      const double of_line = count * (slope[c] * moment + mean[i] * constant[c]);
      of_weight[(size_t)c * s.inputs + i] = factor[c] * sums[(size_t)i * s.padded + c] + of_line;
    }
  // x W, and the constant as one row more, through the slopes and W^T
  std::vector<double> sloped((size_t)(s.inputs + 1) * s.channels), plain((size_t)s.channels * s.inputs);
  for (int i = 0; i < s.inputs; i++)
    for (int c = 0; c < s.channels; c++)
      sloped[(size_t)i * s.channels + c] = turned[(size_t)i * s.channels + c] * slope[c];
  std::copy_n(constant, s.channels, sloped.data() + turned.size());
  std::copy_n(weight, plain.size(), plain.data());
  std::vector<double> exact((size_t)(s.inputs + 1) * s.inputs);
  multiply_exactly(threads, s.inputs + 1, s.inputs, s.channels, sloped.data(), plain.data(), exact.data());
  const int step = padded(s.inputs);
  std::fill_n(through, (size_t)(s.inputs + 1) * step, 0.f);
  for (int i = 0; i <= s.inputs; i++)
    std::copy_n(exact.data() + (size_t)i * s.inputs, s.inputs, through + (size_t)i * step);
}
}
