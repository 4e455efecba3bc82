// A whole CP-Mobile for inference on a CPU, its normalisations folded: what classifier.py calls.
//
// As in training, the widest maps never lie in memory. Where there are many clips, each is the work of one thread, so
// that all maps stay in its cache; a few are done one after the other, and the threads share the rows of each map.
#include "blocks.h"
#include "stem.h"

#include <omp.h>

struct FoldedBlock {
  int stride_height, stride_width, inputs, hidden, outputs, has_shortcut;
  // (inputs, hidden), (9, hidden), (hidden, padded outputs), and a bias of each
  const float *weight, *bias, *taps, *taps_bias, *project, *project_bias, *response;  // response: gain and offset
};

struct FoldedNetwork {
  int clips, height, width, middle, outputs, blocks, features, labels;  // outputs of the stem
  float epsilon;                                                        // of the response normalisation
  // (TAPS + 1, padded middle) with the bias below; (3, 3 middle, padded outputs) and its bias; (labels, features) and
  // its bias
  const float *stem, *second, *second_bias, *head, *head_bias;
  const FoldedBlock* block;
};

// A block, the sizes of its maps, and what one thread needs for its work.
struct BlockWork {
  FoldedBlock b;
  BlockSizes s;
  Rows rows;
  Buffer hidden;
  BlockWork(FoldedBlock b, BlockSizes s)
      : b(b), s(s), rows(s.width, s.hidden), hidden((size_t)std::max(BLOCK, s.out_width()) * s.hidden) {}
  size_t size() const { return (size_t)s.out_places() * s.outputs; }
};

// The maps of the threads that work on one clip.
struct Team {
  Buffer input, output, pooled, energies;
};

// A block's rows before the response normalisation, and the energies (out_height, outputs) of their channels.
static void make_rows(BlockWork& work, const float* x, const float* shortcut, int first, int end, float* y,
                      float* energies, Buffer& wide) {
  const FoldedBlock& b = work.b;
  const BlockSizes& s = work.s;
  const int width = s.out_width(), group = std::max(1, BLOCK / width);
  const auto add_bias_and_relu = [&b](Vector sum, int c) { return relu(sum + load(b.taps_bias + c)); };
  for (int row = first, expanded = std::max(0, first * s.stride_height - 1); row < end; row += group) {
    const int next = std::min(row + group, end);
    for (int out = row; out < next; out++) {
      const int centre = out * s.stride_height;
      for (; expanded < std::min(centre + 2, s.height); expanded++)
        expand_row(s, x + (size_t)expanded * s.width * s.inputs, b.weight, b.bias, work.rows[expanded]);
      const float* met[3] = {centre > 0 ? work.rows.with_border(centre - 1) : work.rows.zeros(),
                             work.rows.with_border(centre),
                             centre + 1 < s.height ? work.rows.with_border(centre + 1) : work.rows.zeros()};
      float* to = work.hidden.data() + (size_t)(out - row) * width * s.hidden;
      depthwise_row(met, b.taps, width, s.stride_width, s.hidden, to, add_bias_and_relu);
    }
    const size_t of_row = (size_t)width * s.outputs;
    const Strided hidden{work.hidden.data(), s.hidden, 1};
    multiply_to_dense((next - row) * width, s.outputs, s.hidden, hidden, b.project, y + row * of_row, wide);
    for (int out = row; out < next; out++) {
      float* energy = energies + (size_t)out * s.outputs;
      std::fill_n(energy, s.outputs, 0.f);
      for (size_t i = out * of_row; i < (out + 1) * of_row; i += s.outputs)
#pragma omp simd
        for (int c = 0; c < s.outputs; c++) {
          const float z = y[i + c] + b.project_bias[c] + (shortcut ? shortcut[i + c] : 0.f);
          y[i + c] = z;
          energy[c] += z * z;
        }
    }
  }
}

// The response normalisation and ReLU of some rows, once the energies of all are known.
static void finish_rows(const BlockWork& work, const float* energies, int first, int end, float* y) {
  const BlockSizes& s = work.s;
  const float gain = work.b.response[0], offset = work.b.response[1];
  std::vector<double> totals(s.outputs);
  std::vector<float> norm(s.outputs), factor(s.outputs);
  for (int row = 0; row < s.out_height(); row++)
    for (int c = 0; c < s.outputs; c++) totals[c] += energies[(size_t)row * s.outputs + c];
  for (int c = 0; c < s.outputs; c++) norm[c] = std::sqrt(std::max((float)totals[c], FLT_MIN));
  const float share = 1 / (mean_of(norm.data(), s.outputs) + s.epsilon);
  for (int c = 0; c < s.outputs; c++) factor[c] = 1 + gain * norm[c] * share;
  const float* factors = factor.data();
  const size_t of_row = (size_t)s.out_width() * s.outputs;
  for (size_t i = first * of_row; i < end * of_row; i += s.outputs)
#pragma omp simd
    for (int c = 0; c < s.outputs; c++) y[i + c] = std::max(y[i + c] * factors[c] + offset, 0.f);
}

// A thread's part of the work on clips.
struct Worker {
  const FoldedNetwork& n;
  StemSizes s;
  Rows rows;
  Buffer patches, sums, wide;
  std::vector<BlockWork> blocks;

  explicit Worker(const FoldedNetwork& n)
      : n(n), s{1, n.height, n.width, n.middle, n.outputs}, rows(s.middle_width(), s.middle),
        patches((size_t)s.middle_width() * PATCH), sums((size_t)s.out_width() * padded(s.outputs)) {
    int height = s.out_height(), width = s.out_width();
    for (int i = 0; i < n.blocks; i++) {
      const FoldedBlock& b = n.block[i];
      const BlockSizes sizes{1,        height,   width,     b.stride_height, b.stride_width,
                             b.inputs, b.hidden, b.outputs, n.epsilon};
      blocks.emplace_back(b, sizes);
      height = sizes.out_height(), width = sizes.out_width();
    }
  }

  Team team() const {
    size_t size = (size_t)s.out_height() * s.out_width() * s.outputs, energies = 0;
    for (const BlockWork& work : blocks) {
      size = std::max(size, work.size());
      energies = std::max(energies, (size_t)work.s.out_height() * work.s.outputs);
    }
    return {Buffer(size), Buffer(size), Buffer(size), Buffer(energies)};
  }

  void stem_rows(const float* x, int first, int end, float* y) {
    const int columns = padded(s.outputs);
    for (int out = first, made = std::max(0, 2 * first - 1); out < end; out++) {
      for (; made < std::min(2 * out + 2, s.middle_height()); made++) {
        fill_patches(s, x, made, patches.data());
        middle_row(s, patches.data(), n.stem, rows[made], wide);
      }
      second_row(s, rows, n.second, out, sums.data());
      float* to = y + (size_t)out * s.out_width() * s.outputs;
      for (int place = 0; place < s.out_width(); place++, to += s.outputs)
        for (int c = 0; c < s.outputs; c++)
          to[c] = std::max(sums[(size_t)place * columns + c] + n.second_bias[c], 0.f);
    }
  }

  // Scores are linear in the features, so that those of their mean are the mean of theirs.
  void score(const float* maps, float* logits) const {
    const BlockSizes& last = blocks.back().s;
    std::vector<float> mean(n.features);
    for (int place = 0; place < last.out_places(); place++)
      for (int c = 0; c < n.features; c++) mean[c] += maps[(size_t)place * n.features + c];
    for (int label = 0; label < n.labels; label++) {
      float sum = 0;
      for (int c = 0; c < n.features; c++) sum += n.head[label * n.features + c] * mean[c];
      logits[label] = sum / last.out_places() + n.head_bias[label];
    }
  }

  // x (height, width) -> logits. `wait` returns when all members have come to it.
  template <class Wait>
  void classify(const float* x, Team& team, Band band, Wait wait, float* logits) {
    float *input = team.input.data(), *output = team.output.data();
    stem_rows(x, band.begin(s.out_height()), band.end(s.out_height()), input);
    wait();
    for (BlockWork& work : blocks) {
      const int first = band.begin(work.s.out_height()), end = band.end(work.s.out_height());
      const bool is_strided = work.s.stride_height * work.s.stride_width > 1;
      const float* shortcut = !work.b.has_shortcut ? nullptr : is_strided ? team.pooled.data() : input;
      if (work.b.has_shortcut && is_strided) pool_rows(work.s, input, first, end, team.pooled.data());
      make_rows(work, input, shortcut, first, end, output, team.energies.data(), wide);
      wait();
      finish_rows(work, team.energies.data(), first, end, output);
      wait();
      std::swap(input, output);
    }
    if (band.member == 0) score(input, logits);
    wait();
  }
};

extern "C" {

// x (clips, height, width) -> logits (clips, labels).
void classify(const FoldedNetwork* network, int threads, const float* x, float* logits) {
  const FoldedNetwork n = *network;
  const size_t of_clip = (size_t)n.height * n.width;
  const bool is_shared = n.clips < 4 * threads;
  Team shared = Worker(n).team();
#pragma omp parallel num_threads(threads)
  {
    Worker worker(n);
    if (is_shared) {
      const Band band{omp_get_thread_num(), omp_get_num_threads()};
      const auto wait = [] {
#pragma omp barrier
      };
      for (int clip = 0; clip < n.clips; clip++)
        worker.classify(x + clip * of_clip, shared, band, wait, logits + (size_t)clip * n.labels);
    } else {
      Team own = worker.team();
#pragma omp for schedule(dynamic)
      for (int clip = 0; clip < n.clips; clip++)
        worker.classify(x + clip * of_clip, own, {0, 1}, [] {}, logits + (size_t)clip * n.labels);
    }
  }
}
}
