// Trains clients one after the other, each a chain of operations; everything of a step stays in the processor's cache.
//
// Images lie with channels last, and the channels behind a convolution are padded to whole vectors. A convolution's weights
// are kept as (kernel height, kernel width, inputs, outputs) while a client trains, so that a step has nothing to arrange.
// A linear layer's are used where torch has them. The shell, engine.py, hands over tables of integers and bare arrays.
#pragma once

#include <vector>

#include "links.hpp"

namespace fedlag {

// The rule of a step, as engine.py writes it. A largest norm of 0 is none.
struct Rule {
  double learning_rate, momentum, largest_norm, smallest_norm, proximal, weight_decay;
  int64_t is_nesterov, is_plain;
};

template <class T> class Chain {
  // A link, and what is kept of every image for the way back.
  struct Place : Layout {
    bool is_flat, wants_weight, wants_bias, needs_input;
    Array<T> padded_input, output, gradient, turned, norms;  // the norms' last place is for their gradient
    Array<T> of_weight, of_bias;  // an example's share must not be lost in a large value, so they are summed apart
    Array<Chosen<T>> chosen;
    int64_t output_step;  // from one image's output to the next
  };

 public:
  Chain(const Link* links, int64_t count, const int64_t* is_wanted, int64_t batch) : batch_(batch), places_(count) {
    int64_t channels = links[0].channels;
    bool is_flat = false;  // behind a flattening, or from the start
    first_ = places_.size();
    for (size_t i = 0; i < places_.size(); i++) {
      Place& it = places_[i];
      static_cast<Link&>(it) = links[i];
      it.is_flat = is_flat = is_flat || it.kind == LINEAR;
      it.in_channels = channels;
      channels = it.kind == CONVOLUTION ? padded(it.outputs, WIDTH<T>) : it.kind == FLATTEN ? it.channels : channels;
      it.out_channels = is_flat ? it.outputs : channels;
      it.in_size = it.is_flat ? it.channels : it.in_channels * it.height * it.width;
      it.out_size = it.is_flat || it.kind == FLATTEN ? it.outputs : it.out_channels * it.out_height * it.out_width;
      it.padded_height = it.height + 2 * it.row_padding;
      it.padded_width = it.width + 2 * it.column_padding;
      it.padded_size = it.padded_height * it.padded_width * it.in_channels;
      it.matrix_size = it.kernel_height * it.kernel_width * it.in_channels * it.out_channels;
      it.wants_weight = it.weight >= 0 && is_wanted[it.weight];
      it.wants_bias = it.bias >= 0 && is_wanted[it.bias];
      if ((it.wants_weight || it.wants_bias) && first_ == places_.size()) first_ = i;
      it.needs_input = i > first_;
      const bool is_passed_on = it.kind == CONVOLUTION && i + 1 < places_.size() && links[i + 1].kind == MAX_POOL;
      it.output_step = is_passed_on ? 0 : it.out_size;  // a pool keeps what it needs of it
      it.output = Array<T>(is_passed_on ? it.out_size : it.out_size * batch);
      it.gradient = Array<T>(it.is_flat || it.kind == FLATTEN ? it.out_size * batch : it.out_size);
      if (it.kind == GROUP_NORM) it.norms = Array<T>(4 * it.in_channels * (batch + 1));
      if (it.kind == MAX_POOL) it.chosen = Array<Chosen<T>>(it.out_size * batch);
      if (it.kind == CONVOLUTION && it.row_padding + it.column_padding) {
        it.padded_input = Array<T>(it.padded_size * (batch + 1));  // the last one for the gradient
        std::fill_n(static_cast<T*>(it.padded_input), it.padded_input.size, T(0));
      }
      if (it.kind == CONVOLUTION && it.needs_input) it.turned = Array<T>(it.matrix_size);
      const int64_t values = it.kind == CONVOLUTION ? it.matrix_size : it.kind == GROUP_NORM ? it.channels : 0;
      if (it.wants_weight) it.of_weight = Array<T>(values);
      if (it.wants_bias) it.of_bias = Array<T>(it.kind == GROUP_NORM ? it.channels : it.out_channels);
      is_flat = is_flat || it.kind == FLATTEN;
    }
    input_ = Array<T>(places_[0].in_size * batch);
  }

  bool is_whole = true;  // no example was of a class that there is not

  int64_t num_outputs() const { return places_.back().out_size; }

  // Takes an image as torch has it, channels first.
  void enter(int64_t b, const T* image) {
    const Place& it = places_[0];
    const int64_t area = it.is_flat ? 1 : it.height * it.width;
    T* to = input_ + b * it.in_size;
    if (area == 1 || it.channels == 1)
      std::copy_n(image, it.in_size, to);
    else
      for (int64_t c = 0; c < it.channels; c++)
        for (int64_t i = 0; i < area; i++) to[i * it.channels + c] = image[c * area + i];
  }

  // Gives logits of `count` examples, shape (count, outputs).
  const T* forward(T* const* params, int64_t count) {
    size_t i = 0;
    for (; i < places_.size() && !places_[i].is_flat; i++) {
    }
    const size_t flat = i;
    for (int64_t b = 0; b < count; b++)
      for (i = 0; i < flat; i++) forward_image(i, b, params);
    for (i = flat; i < places_.size(); i++) forward_flat(i, count, params);
    return places_.back().output;
  }

  T* logits_gradient() { return places_.back().gradient; }

  // Adds the gradients of wanted parameters to `into`, which may be the parameters themselves: with a negative gradient of
  // the logits that is a step. Where links were not wanted, nothing is computed.
  void backward(T* const* params, T* const* into, int64_t count) {
    for (Place& it : places_) {
      if (it.turned) turn<T>(it, params[it.weight], it.turned);
      std::fill_n(static_cast<T*>(it.of_weight), it.of_weight.size, T(0));
      std::fill_n(static_cast<T*>(it.of_bias), it.of_bias.size, T(0));
    }
    ptrdiff_t i = static_cast<ptrdiff_t>(places_.size()) - 1;
    for (; i >= static_cast<ptrdiff_t>(first_) && places_[i].is_flat; i--) backward_flat(i, count, params, into);
    for (int64_t b = 0; b < count; b++)
      for (ptrdiff_t j = i; j >= static_cast<ptrdiff_t>(first_); j--) backward_image(j, b, params);
    for (Place& it : places_) {
      if (it.of_weight) add<T>(it.of_weight, into[it.weight], it.of_weight.size);
      if (it.of_bias) add<T>(it.of_bias, into[it.bias], it.of_bias.size);
    }
  }

  // Arranges one client's parameters for training: torch's -> `ours`, or back.
  void arrange(int64_t param, const T* torchs, T* ours) const {
    for_weights(param, [&](int64_t theirs, int64_t own) { ours[own] = torchs[theirs]; });
  }
  void arrange_back(int64_t param, const T* ours, T* torchs) const {
    for_weights(param, [&](int64_t theirs, int64_t own) { torchs[theirs] = ours[own]; });
  }

  // How many values a parameter has while its client trains; 0 if it lies as torch has it.
  int64_t arranged_size(int64_t param) const {
    for (const Place& it : places_)
      if (it.kind == CONVOLUTION) {
        if (it.weight == param) return it.matrix_size;
        if (it.bias == param) return it.out_channels;
      }
    return 0;
  }

 private:
  template <class Visit> void for_weights(int64_t param, Visit visit) const {
    for (const Place& it : places_) {
      if (it.kind != CONVOLUTION) continue;
      if (it.bias == param)
        for (int64_t o = 0; o < it.outputs; o++) visit(o, o);
      if (it.weight != param) continue;
      const int64_t window = it.kernel_height * it.kernel_width;
      for (int64_t c = 0; c < it.channels; c++)
        for (int64_t k = 0; k < window; k++)
          for (int64_t o = 0; o < it.outputs; o++)
            visit((o * it.channels + c) * window + k, (k * it.in_channels + c) * it.out_channels + o);
    }
  }

  const T* input_of(size_t i, int64_t b) const {
    if (i == 0) return input_ + b * places_[0].in_size;
    return places_[i - 1].output + b * places_[i - 1].output_step;
  }

  const T* padded_input_of(size_t i, int64_t b) const {
    return places_[i].padded_input ? places_[i].padded_input + b * places_[i].padded_size : input_of(i, b);
  }

  void forward_image(size_t i, int64_t b, T* const* params) {
    Place& it = places_[i];
    const T* x = input_of(i, b);
    T* y = it.output + b * it.output_step;
    switch (it.kind) {
      case CONVOLUTION:
        if (it.padded_input) {
          put_inside<T>(it, x, it.padded_input + b * it.padded_size);
          x = it.padded_input + b * it.padded_size;
        }
        return convolve<T>(it, x, params[it.weight], it.bias < 0 ? nullptr : params[it.bias], y);
      case GROUP_NORM: return normalize<T>(it, x, params[it.weight], params[it.bias], y, it.norms + 4 * it.in_channels * b);
      case MAX_POOL: return pool<T>(it, x, y, it.chosen + b * it.out_size);
      case RELU: return rectify<T>(x, y, it.out_size);
      case TANH: return bend<T>(x, y, it.out_size);
      default:
        const int64_t area = it.height * it.width;
        for (int64_t c = 0; c < it.channels; c++)
          for (int64_t j = 0; j < area; j++) y[c * area + j] = x[j * it.in_channels + c];
    }
  }

  void backward_image(size_t i, int64_t b, T* const* params) {
    Place& it = places_[i];
    const bool is_first = i == first_;
    T* g = it.gradient + (it.kind == FLATTEN ? b * it.out_size : 0);
    T* before = is_first ? nullptr : static_cast<T*>(places_[i - 1].gradient);
    const T* y = it.output + b * it.output_step;
    switch (it.kind) {
      case CONVOLUTION:
        if (it.needs_input) {
          T* to = it.padded_input ? it.padded_input + batch_ * it.padded_size : before;
          spread_windows<T>(it, g, it.turned, to);
          if (it.padded_input) take_inside<T>(it, to, before);
        }
        if (it.wants_weight) add_kernel<T>(it, padded_input_of(i, b), g, it.of_weight);
        if (it.wants_bias)
          for (int64_t j = 0; j < it.out_size; j += it.out_channels) add<T>(g + j, it.of_bias, it.out_channels);
        return;
      case GROUP_NORM:
        return spread_norm<T>(it, input_of(i, b), g, params[it.weight], it.norms + 4 * it.in_channels * b, before, it.of_weight,
                              it.of_bias, it.norms + 4 * it.in_channels * batch_);
      case MAX_POOL: return spread_pool<T>(it, g, it.chosen + b * it.out_size, before);
      case RELU: return mask<T>(g, y, before, it.out_size);
      case TANH: return unbend<T>(g, y, before, it.out_size);
      default:
        const int64_t area = it.height * it.width;
        if (it.in_channels != it.channels) std::fill_n(before, it.in_size, T(0));
        for (int64_t c = 0; c < it.channels; c++)
          for (int64_t j = 0; j < area; j++) before[j * it.in_channels + c] = g[c * area + j];
    }
  }

  void forward_flat(size_t i, int64_t count, T* const* params) {
    Place& it = places_[i];
    const T* x = i == 0 ? static_cast<const T*>(input_) : static_cast<const T*>(places_[i - 1].output);
    if (it.kind == LINEAR)
      multiply_transposed<T>(x, count, params[it.weight], it.outputs, it.channels, it.bias < 0 ? nullptr : params[it.bias], it.output);
    else if (it.kind == RELU)
      rectify<T>(x, it.output, count * it.out_size);
    else
      bend<T>(x, it.output, count * it.out_size);
  }

  void backward_flat(size_t i, int64_t count, T* const* params, T* const* into) {
    Place& it = places_[i];
    const T* g = it.gradient;
    const T* x = i == 0 ? static_cast<const T*>(input_) : static_cast<const T*>(places_[i - 1].output);
    T* before = i == first_ ? nullptr : static_cast<T*>(places_[i - 1].gradient);
    if (it.kind == RELU) return mask<T>(g, it.output, before, count * it.out_size);
    if (it.kind == TANH) return unbend<T>(g, it.output, before, count * it.out_size);
    const int64_t block = before ? ROWS : it.outputs;  // rows of the weight that stay in the cache between both products
    for (int64_t o = 0; o < it.outputs; o += block) {
      const int64_t rows = std::min(block, it.outputs - o);
      const T* weight = params[it.weight] + o * it.channels;
      if (before)
        multiply<T>({g + o, it.outputs, 0, 1, 1, rows, weight, it.channels, o ? before : nullptr, it.channels, before, it.channels}, count, it.channels);
      if (it.wants_weight) {
        T* to = into[it.weight] + o * it.channels;
        multiply<T>({g + o, 1, 0, it.outputs, 1, count, x, it.channels, to, it.channels, to, it.channels}, rows, it.channels);
      }
    }
    if (it.wants_bias)
      for (int64_t b = 0; b < count; b++) add<T>(g + b * it.outputs, it.of_bias, it.outputs);
  }

  int64_t batch_;
  size_t first_;
  std::vector<Place> places_;
  Array<T> input_;
};

}  // namespace fedlag
