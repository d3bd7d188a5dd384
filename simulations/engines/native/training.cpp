// What engine.py calls: train, differentiate and predict. REAL is float or double.
#include <cmath>

#include "chain.hpp"

namespace fedlag {

// What clients train on: `rows[step][client][example]` are places in `inputs` and `targets`; `weights` says how much each counts
// in its step's loss, and those of weight 0 are left out. In step `s` the first `active[s]` clients take part.
template <class T> struct Batches {
  const T* inputs;
  const int64_t *targets, *rows;
  const T* weights;
  const int64_t* active;
  int64_t clients, steps, batch, input_size;
};

// Takes a client's batch into the chain. Returns its loss, with the gradient of the logits times `scale` in the chain. An example
// of a class that there is not is left out, and the chain says so.
template <class T> T lose(Chain<T>& chain, const Batches<T>& batches, int64_t step, int64_t client, T* const* params, T scale, int64_t& count) {
  const int64_t at = (step * batches.clients + client) * batches.batch;
  std::vector<int64_t> taken;
  for (int64_t i = at; i < at + batches.batch; i++)
    if (batches.weights[i] != 0) {
      chain.enter(static_cast<int64_t>(taken.size()), batches.inputs + batches.rows[i] * batches.input_size);
      taken.push_back(i);
    }
  count = static_cast<int64_t>(taken.size());
  const T* logits = chain.forward(params, count);
  const int64_t classes = chain.num_outputs();
  T *g = chain.logits_gradient(), loss = 0;
  for (int64_t b = 0; b < count; b++, logits += classes, g += classes) {
    const T weight = batches.weights[taken[b]], largest = *std::max_element(logits, logits + classes);
    const int64_t target = batches.targets[batches.rows[taken[b]]];
    if (target < 0 || target >= classes) {
      chain.is_whole = false;
      std::fill_n(g, classes, T(0));
      continue;
    }
    T total = 0;
    for (int64_t c = 0; c < classes; c++) total += g[c] = std::exp(logits[c] - largest);
    loss -= weight * (logits[target] - largest - std::log(total));
    for (int64_t c = 0; c < classes; c++) g[c] *= scale * weight / total;
    g[target] -= scale * weight;
  }
  return loss;
}

// One client's parameters while it trains: arranged copies, or where they are.
template <class T> class Held {
 public:
  Held(const Chain<T>& chain, const int64_t* sizes, int64_t count) : chain_(chain), sizes_(sizes, sizes + count), values(count), copies_(count) {
    for (int64_t p = 0; p < count; p++) {
      arranged.push_back(chain.arranged_size(p));
      if (arranged[p]) copies_[p] = Array<T>(arranged[p]);
    }
  }
  int64_t size(int64_t param) const { return arranged[param] ? arranged[param] : sizes_[param]; }

  void take(T* const* stacks, int64_t client) {
    for (size_t p = 0; p < values.size(); p++) {
      T* theirs = stacks[p] + client * sizes_[p];
      values[p] = arranged[p] ? static_cast<T*>(copies_[p]) : theirs;
      if (!arranged[p]) continue;
      std::fill_n(values[p], arranged[p], T(0));
      chain_.arrange(p, theirs, values[p]);
    }
  }
  void give(T* const* stacks, int64_t client) const {
    for (size_t p = 0; p < values.size(); p++)
      if (arranged[p]) chain_.arrange_back(p, values[p], stacks[p] + client * sizes_[p]);
  }

 private:
  const Chain<T>& chain_;
  std::vector<int64_t> sizes_;

 public:
  std::vector<T*> values;
  std::vector<int64_t> arranged;

 private:
  std::vector<Array<T>> copies_;
};

// Stochastic gradient descent of one client, as edge_client/optimizer.py does it.
template <class T> class Descent {
 public:
  Descent(const Rule& rule, const Held<T>& held, const int64_t* is_wanted) : rule_(rule) {
    for (size_t p = 0; p < held.values.size(); p++) {
      sizes_.push_back(is_wanted[p] ? held.size(p) : 0);
      gradients_.push_back(Array<T>(sizes_[p]));
      velocities_.push_back(Array<T>(rule.momentum ? sizes_[p] : 0));
      into.push_back(gradients_[p]);
    }
  }
  void begin_client() {
    for (auto& it : velocities_) std::fill_n(static_cast<T*>(it), it.size, T(0));
  }
  void begin_step() {
    for (auto& it : gradients_) std::fill_n(static_cast<T*>(it), it.size, T(0));
  }
  void step(T* const* values, T* const* anchors, T smallest_norm) {
    T squares = 0;
    for (size_t p = 0; p < sizes_.size(); p++) {
      T* g = gradients_[p];
      if (rule_.proximal)
        for (int64_t i = 0; i < sizes_[p]; i++) g[i] += static_cast<T>(rule_.proximal) * (values[p][i] - anchors[p][i]);
      if (rule_.largest_norm) squares += sum_of_squares(g, sizes_[p]);
    }
    const T scale = rule_.largest_norm ? std::min<T>(1, static_cast<T>(rule_.largest_norm) / std::max(std::sqrt(squares), smallest_norm)) : T(1);
    const T rate = static_cast<T>(rule_.learning_rate), momentum = static_cast<T>(rule_.momentum), decay = static_cast<T>(rule_.weight_decay);
    for (size_t p = 0; p < sizes_.size(); p++) {
      T *w = values[p], *v = velocities_[p];
      const T* g = gradients_[p];
      for (int64_t i = 0; i < sizes_[p]; i++) {
        T move = g[i] * scale + decay * w[i];
        if (v) {
          v[i] = momentum * v[i] + move;
          move = rule_.is_nesterov ? move + momentum * v[i] : v[i];
        }
        w[i] -= rate * move;
      }
    }
  }
  std::vector<T*> into;

 private:
  static T sum_of_squares(const T* values, int64_t size) {
    T lanes[16] = {}, sum = 0;
    int64_t i = 0;
    for (; i + 16 <= size; i += 16)
      for (int lane = 0; lane < 16; lane++) lanes[lane] += values[i + lane] * values[i + lane];
    for (; i < size; i++) sum += values[i] * values[i];
    for (T lane : lanes) sum += lane;
    return sum;
  }
  const Rule& rule_;
  std::vector<int64_t> sizes_;
  std::vector<Array<T>> gradients_, velocities_;
};

struct Model {
  const Link* links;
  int64_t num_links;
  const int64_t *sizes, *is_wanted;
  int64_t num_params;
};

template <class T>
bool train(const Model& model, const Rule& rule, const Batches<T>& batches, T* const* stacks, T* const* anchors, T* losses) {
  Chain<T> chain(model.links, model.num_links, model.is_wanted, batches.batch);
  Held<T> held(chain, model.sizes, model.num_params), anchor(chain, model.sizes, model.num_params);
  std::unique_ptr<Descent<T>> descent;
  if (!rule.is_plain) descent = std::make_unique<Descent<T>>(rule, held, model.is_wanted);
  for (int64_t client = 0; client < batches.clients; client++) {
    held.take(stacks, client);
    if (rule.proximal) anchor.take(anchors, client);
    if (descent) descent->begin_client();
    int64_t steps = 0, count = 0;
    for (int64_t s = 0; s < batches.steps; s++) {
      if (client >= batches.active[s]) continue;
      steps++;
      T* const* values = held.values.data();
      if (!descent) {
        losses[client] += lose<T>(chain, batches, s, client, values, -static_cast<T>(rule.learning_rate), count);
        chain.backward(values, values, count);
        continue;
      }
      losses[client] += lose<T>(chain, batches, s, client, values, T(1), count);
      descent->begin_step();
      chain.backward(values, descent->into.data(), count);
      descent->step(values, anchor.values.data(), static_cast<T>(rule.smallest_norm));
    }
    losses[client] /= static_cast<T>(steps);
    held.give(stacks, client);
  }
  return chain.is_whole;
}

template <class T> bool differentiate(const Model& model, const Batches<T>& batches, T* const* stacks, T* const* gradients, T* losses) {
  Chain<T> chain(model.links, model.num_links, model.is_wanted, batches.batch);
  Held<T> held(chain, model.sizes, model.num_params), found(chain, model.sizes, model.num_params);
  for (int64_t client = 0; client < batches.clients; client++) {
    held.take(stacks, client);
    found.take(gradients, client);
    int64_t count = 0;
    losses[client] = lose<T>(chain, batches, 0, client, held.values.data(), T(1), count);
    chain.backward(held.values.data(), found.values.data(), count);
    found.give(gradients, client);
  }
  return chain.is_whole;
}

template <class T> void predict(const Model& model, const T* inputs, int64_t clients, int64_t examples, int64_t input_size, T* const* stacks, T* logits) {
  constexpr int64_t most = 32;
  Chain<T> chain(model.links, model.num_links, model.is_wanted, std::min(most, examples));
  Held<T> held(chain, model.sizes, model.num_params);
  for (int64_t client = 0; client < clients; client++) {
    held.take(stacks, client);
    for (int64_t begin = 0; begin < examples; begin += most) {
      const int64_t count = std::min(most, examples - begin);
      for (int64_t b = 0; b < count; b++, inputs += input_size) chain.enter(b, inputs);
      logits = std::copy_n(chain.forward(held.values.data(), count), count * chain.num_outputs(), logits);
    }
  }
}

}  // namespace fedlag

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int fedlag_train(const fedlag::Model* model, const fedlag::Rule* rule, const fedlag::Batches<REAL>* batches, REAL* const* stacks,
                        REAL* const* anchors, REAL* losses) {
  return fedlag::train<REAL>(*model, *rule, *batches, stacks, anchors, losses);
}
EXPORT int fedlag_differentiate(const fedlag::Model* model, const fedlag::Batches<REAL>* batches, REAL* const* stacks,
                                REAL* const* gradients, REAL* losses) {
  return fedlag::differentiate<REAL>(*model, *batches, stacks, gradients, losses);
}
EXPORT void fedlag_predict(const fedlag::Model* model, const REAL* inputs, int64_t clients, int64_t examples, int64_t input_size,
                           REAL* const* stacks, REAL* logits) {
  fedlag::predict<REAL>(*model, inputs, clients, examples, input_size, stacks, logits);
}
