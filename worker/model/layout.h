// Sizes of a model and the offsets of its parameters in the flat buffer, by role. Torch-free;
// follows MinimindParameters' order.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/formats/model_config.h"

namespace mindforge {

// Sizes that every backend needs, named once.
struct ModelSizes {
  int64_t layers, hidden, vocab, heads, kv_heads, head_dim;
  int64_t inner;      // of the feed-forward, or of each expert
  int64_t attention;  // heads · head_dim
  int64_t qkv;        // (heads + 2 · kv_heads) · head_dim, the fused projection's rows
  bool qk_norm;
  int64_t experts, shared, top_k;  // routed and shared experts; 0 when the model is dense
  int64_t rank;                    // of the adapters, 0: none

  explicit ModelSizes(const ModelConfig& c, int64_t lora_rank = 0)
      : layers(c.num_hidden_layers),
        hidden(c.hidden_size),
        vocab(c.vocab_size),
        heads(c.num_attention_heads),
        kv_heads(c.num_key_value_heads),
        head_dim(c.HeadDim()),
        inner(c.use_moe ? c.MoeIntermediateSize() : c.IntermediateSize()),
        attention(heads * head_dim),
        qkv((heads + 2 * kv_heads) * head_dim),
        qk_norm(c.qk_norm),
        experts(c.use_moe ? c.n_routed_experts : 0),
        shared(c.use_moe ? c.n_shared_experts : 0),
        top_k(c.use_moe ? c.num_experts_per_tok : 0),
        rank(lora_rank) {}
};

// Low-rank matrices beside a square projection: a [rank, size], b [size, rank].
struct AdapterOffsets {
  int64_t a = -1;
  int64_t b = -1;
  bool present() const { return a >= 0; }
};

// gate_up [2 · inner, hidden], down [hidden, inner].
struct MlpOffsets {
  int64_t gate_up = -1;
  int64_t down = -1;
  AdapterOffsets gate_adapter, up_adapter, down_adapter;
};

// Where a layer's matrices begin: qkv [qkv, hidden], o [hidden, attention], router
// [experts, hidden]; -1 for what the model has not.
struct LayerOffsets {
  int64_t qkv = -1;
  int64_t o = -1;
  int64_t q_norm = -1;
  int64_t k_norm = -1;
  int64_t norm1 = -1;
  int64_t norm2 = -1;
  MlpOffsets mlp;                   // of a dense model
  std::vector<MlpOffsets> experts;  // of MoE: the routed ones, then
  int64_t router = -1;
  std::vector<MlpOffsets> shared;
  AdapterOffsets q_adapter, k_adapter, v_adapter, o_adapter;
};

struct ModelOffsets {
  std::vector<LayerOffsets> layers;
  int64_t embedding = 0;
  int64_t norm = 0;
  int64_t head = 0;      // the embedding's when tied
  int64_t adapters = 0;  // the first adapter; the end without any
  int64_t end = 0;       // number of parameters

  ModelOffsets(const ModelSizes& s, bool tied) {
    end = s.vocab * s.hidden;
    layers.resize(s.layers);
    for (LayerOffsets& layer : layers) PlaceLayer(s, layer);
    norm = Take(s.hidden);
    head = tied ? 0 : Take(s.vocab * s.hidden);
    adapters = end;
    if (s.rank == 0) return;
    for (LayerOffsets& layer : layers) PlaceAdapters(s, layer);
  }

 private:
  int64_t Take(int64_t size) {
    const int64_t at = end;
    end += size;
    return at;
  }

  MlpOffsets TakeMlp(const ModelSizes& s) {
    MlpOffsets mlp;
    mlp.gate_up = Take(2 * s.inner * s.hidden);
    mlp.down = Take(s.hidden * s.inner);
    return mlp;
  }

  void PlaceLayer(const ModelSizes& s, LayerOffsets& layer) {
    layer.qkv = Take(s.qkv * s.hidden);
    layer.o = Take(s.hidden * s.attention);
    if (s.qk_norm) {
      layer.q_norm = Take(s.head_dim);
      layer.k_norm = Take(s.head_dim);
    }
    layer.norm1 = Take(s.hidden);
    layer.norm2 = Take(s.hidden);
    if (s.experts == 0) {
      layer.mlp = TakeMlp(s);
      return;
    }
    for (int64_t i = 0; i < s.experts; ++i) layer.experts.push_back(TakeMlp(s));
    layer.router = Take(s.experts * s.hidden);
    for (int64_t i = 0; i < s.shared; ++i) layer.shared.push_back(TakeMlp(s));
  }

  void TakeAdapter(const ModelSizes& s, bool square, AdapterOffsets& adapter) {
    if (!square) return;
    adapter.a = Take(s.rank * s.hidden);
    adapter.b = Take(s.hidden * s.rank);
  }

  void PlaceMlpAdapters(const ModelSizes& s, MlpOffsets& mlp) {
    for (AdapterOffsets* adapter : {&mlp.gate_adapter, &mlp.up_adapter, &mlp.down_adapter}) {
      TakeAdapter(s, s.inner == s.hidden, *adapter);
    }
  }

  void PlaceAdapters(const ModelSizes& s, LayerOffsets& layer) {
    TakeAdapter(s, s.attention == s.hidden, layer.q_adapter);
    TakeAdapter(s, s.kv_heads * s.head_dim == s.hidden, layer.k_adapter);
    TakeAdapter(s, s.kv_heads * s.head_dim == s.hidden, layer.v_adapter);
    TakeAdapter(s, s.attention == s.hidden, layer.o_adapter);
    if (s.experts == 0) PlaceMlpAdapters(s, layer.mlp);
    for (MlpOffsets& mlp : layer.experts) PlaceMlpAdapters(s, mlp);
    for (MlpOffsets& mlp : layer.shared) PlaceMlpAdapters(s, mlp);
  }
};

}  // namespace mindforge
