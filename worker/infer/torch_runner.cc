#include "worker/infer/torch_runner.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/numerics_id.h"
#include "common/status_macros.h"
#include "worker/infer/torch_mixture.h"
#include "worker/kernels/rope.h"
#ifdef MINDFORGE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace mindforge {
namespace {

struct TorchLayer {
  at::Tensor input_norm;
  at::Tensor post_norm;
  at::Tensor query_norm;  // undefined without qk_norm
  at::Tensor key_norm;
  at::Tensor qkv;  // queries, keys, values one below the other
  at::Tensor out;
  TorchMlp mlp;          // of a dense model
  TorchMixture mixture;  // of any other
  at::Tensor keys;       // [slots · context, kv_heads, head_dim]
  at::Tensor values;
};

// LibTorch's messages can go on for pages (every backend's registrations); the first line has it.
std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

// Runs `work`, which returns a Status; what torch throws becomes one.
template <typename F>
absl::Status Guarded(const char* what, F work) {
  try {
    const c10::InferenceMode guard;
    return work();
  } catch (const c10::OutOfMemoryError& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, ": the device is out of memory; use fewer slots, a shorter context or",
                     " bfloat16: ", FirstLine(error.what_without_backtrace())));
  } catch (const c10::Error& error) {
    return absl::InternalError(absl::StrCat(what, ": ", FirstLine(error.what_without_backtrace())));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(what, ": ", FirstLine(error.what())));
  }
}

std::string DeviceKind(const at::Device& device) {
#ifdef MINDFORGE_CUDA
  cudaDeviceProp properties;
  if (device.is_cuda() && cudaGetDeviceProperties(&properties, device.index()) == cudaSuccess) {
    return properties.name;
  }
#endif
  return device.str();
}

at::ScalarType ScalarOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return at::kFloat;
    case DType::kF16:
      return at::kHalf;
    default:
      return at::kBFloat16;
  }
}

// x normalised and times weight, both in float32: the caller rounds once, at the end.
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
  return wide * scale * weight;
}

// Heads [N, heads, head_dim] turned by cos and sin [N, 1, head_dim / 2], float32.
at::Tensor Turn(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const std::vector<at::Tensor> halves = x.to(at::kFloat).chunk(2, -1);
  return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1);
}

class TorchRunner : public ModelRunner {
 public:
  TorchRunner(const ModelFolder& folder, const RunnerOptions& options)
      : config_(folder.config),
        options_(options),
        device_(options.device),
        dtype_(options.dtype == RunnerDtype::kFloat32 ? at::kFloat : at::kBFloat16) {
    // cuDNN's attention builds a plan for each new number of keys, tens of milliseconds each, and a
    // sequence has another one at every token. Training asks for its attention by name.
    at::globalContext().setSDPUseCuDNN(false);
    numerics_id_ = absl::StrCat(kBatchDependentPrefix, DeviceKind(device_), "-",
                                dtype_ == at::kFloat ? "f32" : "bf16", "-2");
  }

  absl::Status Load(const ModelFolder& folder);

  int64_t vocab_size() const override { return config_.vocab_size; }
  int64_t max_context() const override { return options_.max_context; }
  int64_t slots() const override { return options_.slots; }
  int64_t max_batch_tokens() const override { return options_.max_batch_tokens; }
  const std::string& numerics_id() const override { return numerics_id_; }
  absl::Status Forward(const StepBatch& batch, float* logits) override {
    return Guarded("forward", [&] { return Compute(batch, logits); });
  }

 private:
  // The batch as tensors: what every layer shares.
  struct Step {
    at::Tensor cache_index;  // [N]: row of the caches that a token writes
    at::Tensor cos;          // [N, 1, head_dim / 2]
    at::Tensor sin;
    std::vector<int64_t> decodes;  // tokens alone in their row
    at::Tensor decode_tokens;      // the same, [R]
    at::Tensor
        decode_cache_index;  // [R, longest]: cache rows of each, padded with row 0 of its slot
    at::Tensor decode_mask;  // [R, 1, 1, longest]: keys that exist
    struct Chunk {
      int64_t first_token;
      int64_t count;
      int64_t first_key;  // cache row of position 0
      at::Tensor mask;    // [count, keys]: keys up to each token's own
    };
    std::vector<Chunk> chunks;
  };

  at::TensorOptions Options(at::ScalarType dtype) const {
    return at::TensorOptions().device(device_).dtype(dtype);
  }
  at::Tensor Indices(const std::vector<int64_t>& values) const {
    return at::tensor(values, at::TensorOptions().dtype(at::kLong)).to(device_);
  }
  absl::StatusOr<at::Tensor> Weight(const ModelFolder& folder, const std::string& name) const {
    return Weight(folder, name, dtype_);
  }
  absl::StatusOr<at::Tensor> Norm(const ModelFolder& folder, const std::string& name) const {
    return Weight(folder, name, at::kFloat);
  }
  absl::StatusOr<at::Tensor> Weight(const ModelFolder& folder, const std::string& name,
                                    at::ScalarType dtype) const;
  absl::StatusOr<TorchMlp> LoadMlp(const ModelFolder& folder, const std::string& prefix) const;
  absl::StatusOr<std::vector<TorchMlp>> LoadMlps(const ModelFolder& folder,
                                                 const std::string& prefix, int64_t count) const;
  absl::StatusOr<TorchLayer> LoadLayer(const ModelFolder& folder, int64_t index) const;
  Step Prepare(const StepBatch& batch) const;
  void PrepareDecodes(const std::vector<int64_t>& slots, const std::vector<int64_t>& lengths,
                      Step& step) const;
  // As products read it.
  at::Tensor Normed(const at::Tensor& x, const at::Tensor& weight) const {
    return RmsNorm(x, weight, config_.rms_norm_eps).to(dtype_);
  }
  at::Tensor Attention(const at::Tensor& x, const TorchLayer& layer, const Step& step) const;
  // query [R, heads, T, head_dim], keys and values [R, L, kv_heads, head_dim].
  at::Tensor Scored(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                    const at::Tensor& mask) const;
  absl::Status Compute(const StepBatch& batch, float* logits);

  const ModelConfig config_;
  const RunnerOptions options_;
  const at::Device device_;
  const at::ScalarType dtype_;
  std::string numerics_id_;
  at::Tensor embedding_;
  at::Tensor head_;
  at::Tensor final_norm_;
  at::Tensor cos_;  // [context, head_dim / 2]
  at::Tensor sin_;
  std::vector<TorchLayer> layers_;
};

absl::StatusOr<at::Tensor> TorchRunner::Weight(const ModelFolder& folder, const std::string& name,
                                               at::ScalarType dtype) const {
  const TensorView* view = folder.Find(name);
  if (view == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(folder.path, " has no tensor ", name));
  }
  // The mapped file is read only and goes away: always copied.
  const at::Tensor mapped =
      at::from_blob(const_cast<void*>(view->data), view->shape, ScalarOf(view->dtype));
  return at::empty(view->shape, Options(dtype)).copy_(mapped);
}

absl::StatusOr<TorchMlp> TorchRunner::LoadMlp(const ModelFolder& folder,
                                              const std::string& prefix) const {
  TorchMlp mlp;
  ASSIGN_OR_RETURN(mlp.gate, Weight(folder, prefix + "gate_proj.weight"));
  ASSIGN_OR_RETURN(mlp.up, Weight(folder, prefix + "up_proj.weight"));
  ASSIGN_OR_RETURN(mlp.down, Weight(folder, prefix + "down_proj.weight"));
  return mlp;
}

absl::StatusOr<std::vector<TorchMlp>> TorchRunner::LoadMlps(const ModelFolder& folder,
                                                            const std::string& prefix,
                                                            int64_t count) const {
  std::vector<TorchMlp> mlps;
  for (int64_t e = 0; e < count; ++e) {
    ASSIGN_OR_RETURN(TorchMlp mlp, LoadMlp(folder, absl::StrCat(prefix, e, ".")));
    mlps.push_back(std::move(mlp));
  }
  return mlps;
}

absl::StatusOr<TorchLayer> TorchRunner::LoadLayer(const ModelFolder& folder, int64_t index) const {
  const std::string prefix = absl::StrCat("model.layers.", index, ".");
  const std::string attention = prefix + "self_attn.";
  TorchLayer layer;
  ASSIGN_OR_RETURN(layer.input_norm, Norm(folder, prefix + "input_layernorm.weight"));
  ASSIGN_OR_RETURN(layer.post_norm, Norm(folder, prefix + "post_attention_layernorm.weight"));
  if (config_.qk_norm) {
    ASSIGN_OR_RETURN(layer.query_norm, Norm(folder, attention + "q_norm.weight"));
    ASSIGN_OR_RETURN(layer.key_norm, Norm(folder, attention + "k_norm.weight"));
  }
  ASSIGN_OR_RETURN(const at::Tensor q, Weight(folder, attention + "q_proj.weight"));
  ASSIGN_OR_RETURN(const at::Tensor k, Weight(folder, attention + "k_proj.weight"));
  ASSIGN_OR_RETURN(const at::Tensor v, Weight(folder, attention + "v_proj.weight"));
  layer.qkv = at::cat({q, k, v});
  ASSIGN_OR_RETURN(layer.out, Weight(folder, attention + "o_proj.weight"));
  const std::string mlp = prefix + "mlp.";
  if (config_.use_moe) {
    layer.mixture.per_token = config_.num_experts_per_tok;
    layer.mixture.normalise = config_.NormalizesTopK();
    ASSIGN_OR_RETURN(layer.mixture.router, Weight(folder, mlp + "gate.weight", at::kFloat));
    ASSIGN_OR_RETURN(layer.mixture.experts,
                     LoadMlps(folder, mlp + "experts.", config_.n_routed_experts));
    ASSIGN_OR_RETURN(layer.mixture.shared_experts,
                     LoadMlps(folder, mlp + "shared_experts.", config_.n_shared_experts));
  } else {
    ASSIGN_OR_RETURN(layer.mlp, LoadMlp(folder, mlp));
  }
  const std::vector<int64_t> cache = {options_.slots * options_.max_context,
                                      config_.num_key_value_heads, config_.HeadDim()};
  layer.keys = at::zeros(cache, Options(dtype_));
  layer.values = at::zeros(cache, Options(dtype_));
  return layer;
}

absl::Status TorchRunner::Load(const ModelFolder& folder) {
  return Guarded("loading the model", [&]() -> absl::Status {
    ASSIGN_OR_RETURN(embedding_, Weight(folder, "model.embed_tokens.weight"));
    head_ = embedding_;
    if (!config_.tie_word_embeddings) {
      ASSIGN_OR_RETURN(head_, Weight(folder, "lm_head.weight"));
    }
    ASSIGN_OR_RETURN(final_norm_, Norm(folder, "model.norm.weight"));
    for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
      ASSIGN_OR_RETURN(TorchLayer layer, LoadLayer(folder, i));
      layers_.push_back(std::move(layer));
    }
    RopeTables rope = MakeRopeTables(config_, options_.max_context);
    const std::vector<int64_t> shape = {rope.positions, rope.half};
    cos_ = at::empty(shape, Options(at::kFloat)).copy_(at::from_blob(rope.cos.data(), shape));
    sin_ = at::empty(shape, Options(at::kFloat)).copy_(at::from_blob(rope.sin.data(), shape));
    return absl::OkStatus();
  });
}

TorchRunner::Step TorchRunner::Prepare(const StepBatch& batch) const {
  Step step;
  std::vector<int64_t> positions, rows, slots, lengths;
  for (const StepRow& row : batch.rows) {
    const auto count = static_cast<int64_t>(row.tokens.size());
    MF_CHECK(row.slot >= 0 && row.slot < options_.slots) << "slot " << row.slot;
    MF_CHECK_LE(row.start_position + count, options_.max_context);
    const int64_t first_key = row.slot * options_.max_context;
    if (count == 1) {
      step.decodes.push_back(static_cast<int64_t>(positions.size()));
      slots.push_back(row.slot);
      lengths.push_back(row.start_position + 1);
    } else {
      const at::Tensor mask = at::ones({count, row.start_position + count}, Options(at::kBool))
                                  .tril(row.start_position);
      step.chunks.push_back({static_cast<int64_t>(positions.size()), count, first_key, mask});
    }
    for (int64_t i = 0; i < count; ++i) {
      positions.push_back(row.start_position + i);
      rows.push_back(first_key + row.start_position + i);
    }
  }
  const at::Tensor at_positions = Indices(positions);
  step.cos = cos_.index_select(0, at_positions).unsqueeze(1);
  step.sin = sin_.index_select(0, at_positions).unsqueeze(1);
  step.cache_index = Indices(rows);
  if (!slots.empty()) PrepareDecodes(slots, lengths, step);
  return step;
}

void TorchRunner::PrepareDecodes(const std::vector<int64_t>& slots,
                                 const std::vector<int64_t>& lengths, Step& step) const {
  step.decode_tokens = Indices(step.decodes);
  const at::Tensor length = Indices(lengths).unsqueeze(1);  // [R, 1]
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const at::Tensor key = at::arange(longest, Options(at::kLong)).unsqueeze(0);  // [1, L]
  const at::Tensor exists = key < length;
  step.decode_mask = exists.unsqueeze(1).unsqueeze(1);
  step.decode_cache_index = Indices(slots).unsqueeze(1) * options_.max_context + key * exists;
}

at::Tensor TorchRunner::Scored(const at::Tensor& query, const at::Tensor& keys,
                               const at::Tensor& values, const at::Tensor& mask) const {
  const at::Tensor context = at::scaled_dot_product_attention(
      query, keys.transpose(1, 2), values.transpose(1, 2), mask, /*dropout_p=*/0.0,
      /*is_causal=*/false, /*scale=*/std::nullopt, /*enable_gqa=*/true);
  return context.transpose(1, 2).reshape({-1, query.size(1) * query.size(3)});
}

at::Tensor TorchRunner::Attention(const at::Tensor& x, const TorchLayer& layer,
                                  const Step& step) const {
  const int64_t heads = config_.num_attention_heads, kv_heads = config_.num_key_value_heads;
  const int64_t dim = config_.HeadDim(), tokens = x.size(0);
  const std::vector<at::Tensor> parts = at::linear(x, layer.qkv)
                                            .view({tokens, heads + 2 * kv_heads, dim})
                                            .split_with_sizes({heads, kv_heads, kv_heads}, 1);
  at::Tensor query = parts[0], key = parts[1];
  if (config_.qk_norm) {
    query = RmsNorm(query, layer.query_norm, config_.rms_norm_eps);
    key = RmsNorm(key, layer.key_norm, config_.rms_norm_eps);
  }
  query = Turn(query, step.cos, step.sin).to(dtype_);
  layer.keys.index_copy_(0, step.cache_index, Turn(key, step.cos, step.sin).to(dtype_));
  layer.values.index_copy_(0, step.cache_index, parts[2]);

  const at::Tensor out = at::empty({tokens, heads * dim}, x.options());
  if (!step.decodes.empty()) {
    const auto rows = static_cast<int64_t>(step.decodes.size());
    const at::Tensor index = step.decode_cache_index.flatten();
    const std::vector<int64_t> shape = {rows, -1, kv_heads, dim};
    const at::Tensor decoded =
        Scored(query.index_select(0, step.decode_tokens).unsqueeze(2),
               layer.keys.index_select(0, index).view(shape),
               layer.values.index_select(0, index).view(shape), step.decode_mask);
    out.index_copy_(0, step.decode_tokens, decoded);
  }
  for (const Step::Chunk& chunk : step.chunks) {
    const int64_t keys = chunk.mask.size(1);
    const at::Tensor own = query.narrow(0, chunk.first_token, chunk.count);
    out.narrow(0, chunk.first_token, chunk.count)
        .copy_(Scored(own.transpose(0, 1).unsqueeze(0),
                      layer.keys.narrow(0, chunk.first_key, keys).unsqueeze(0),
                      layer.values.narrow(0, chunk.first_key, keys).unsqueeze(0), chunk.mask));
  }
  return at::linear(out, layer.out);
}

absl::Status TorchRunner::Compute(const StepBatch& batch, float* logits) {
  MF_CHECK_LE(batch.TokenCount(), options_.max_batch_tokens);
  std::vector<int64_t> ids, wanted;
  for (const StepRow& row : batch.rows) {
    const auto count = static_cast<int64_t>(row.tokens.size());
    for (int64_t i = 0; i < count; ++i) {
      if (i >= count - row.logits) wanted.push_back(static_cast<int64_t>(ids.size()));
      ids.push_back(row.tokens[i]);
    }
  }
  const Step step = Prepare(batch);
  at::Tensor x = embedding_.index_select(0, Indices(ids));  // [N, hidden]
  for (const TorchLayer& layer : layers_) {
    x = x + Attention(Normed(x, layer.input_norm), layer, step);
    const at::Tensor normed = Normed(x, layer.post_norm);
    x = x + (config_.use_moe ? layer.mixture(normed) : layer.mlp(normed));
  }
  if (wanted.empty()) return absl::OkStatus();
  const at::Tensor last = Normed(x.index_select(0, Indices(wanted)), final_norm_);
  const at::Tensor scores = at::linear(last, head_).to(at::kCPU, at::kFloat).contiguous();
  std::memcpy(logits, scores.const_data_ptr<float>(), scores.nbytes());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> MakeTorchRunner(const ModelFolder& folder,
                                                             const RunnerOptions& options) {
  std::unique_ptr<TorchRunner> runner;
  RETURN_IF_ERROR(Guarded("opening the device", [&] {
    runner = std::make_unique<TorchRunner>(folder, options);
    return absl::OkStatus();
  }));
  RETURN_IF_ERROR(runner->Load(folder));
  return runner;
}

}  // namespace mindforge
