#include "worker/model/routing.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <vector>

namespace mindforge {
namespace {

template <typename V>
V* RoomFor(const std::vector<V>& host, at::ScalarType type, c10::Device device,
           at::Tensor& storage) {
  const auto size = static_cast<int64_t>(host.size());
  if (!storage.defined() || storage.numel() < size) {
    storage = at::empty({size}, at::TensorOptions().device(device).dtype(type));
  }
  return storage.mutable_data_ptr<V>();
}

template <typename V>
void CopyBack(const at::Tensor& storage, at::ScalarType type, std::vector<V>& host) {
  const auto size = static_cast<int64_t>(host.size());
  at::from_blob(host.data(), {size}, type).copy_(storage.narrow(0, 0, size));
}

}  // namespace

void Routing::Resize(c10::Device device, int64_t tokens, int64_t experts, int64_t top_k) {
  slots.Resize(tokens, experts, top_k);
  if (device.is_cpu()) {
    arrays_.scores = slots.scores.data();
    arrays_.chosen = slots.chosen.data();
    arrays_.weights = slots.weights.data();
    return;
  }
  arrays_.scores = RoomFor(slots.scores, at::kFloat, device, scores_);
  arrays_.chosen = RoomFor(slots.chosen, at::kInt, device, chosen_);
  arrays_.weights = RoomFor(slots.weights, at::kFloat, device, weights_);
}

void Routing::Fetch(c10::Device device, bool scores) {
  if (device.is_cpu()) return;
  CopyBack(chosen_, at::kInt, slots.chosen);
  CopyBack(weights_, at::kFloat, slots.weights);
  if (scores) CopyBack(scores_, at::kFloat, slots.scores);
}

void Routing::Send(c10::Device device) {
  sent_.Add(slots.slots, &arrays_.slots);
  sent_.Add(slots.slot_tokens, &arrays_.slot_tokens);
  sent_.Add(slots.slot_experts, &arrays_.slot_experts);
  sent_.Add(slots.slot_weights, &arrays_.slot_weights);
  sent_.Add(slots.balance, &arrays_.balance);
  sent_.Send(device);
}

}  // namespace mindforge
