// One layer's choice of experts where the kernels need it and where slots are dealt out, which is
// the host: on a GPU the choices come to the host and the slots go back, one wait for the device a
// layer.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

#include "worker/model/device_arrays.h"
#include "worker/model/expert_slots.h"

namespace mindforge {

// Keeps its memory from one microbatch to the next.
class Routing {
 public:
  ExpertSlots slots;

  // Where the kernels find it: the router's results, and from Send on the slots.
  struct Arrays {
    float* scores = nullptr;
    int32_t* chosen = nullptr;
    float* weights = nullptr;
    const int32_t* slots = nullptr;
    const int32_t* slot_tokens = nullptr;
    const int32_t* slot_experts = nullptr;
    const float* slot_weights = nullptr;
    const float* balance = nullptr;
  };
  const Arrays& arrays() const { return arrays_; }

  // Room for what the router writes.
  void Resize(c10::Device device, int64_t tokens, int64_t experts, int64_t top_k);
  // The router's results into `slots`. Waits for the device.
  void Fetch(c10::Device device, bool scores);
  // What was made of them back.
  void Send(c10::Device device);

 private:
  Arrays arrays_;
  at::Tensor scores_, chosen_, weights_;  // on a GPU
  DeviceArrays sent_;
};

}  // namespace mindforge
