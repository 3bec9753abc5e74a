// Offsets of a dense model's parameters in its flat buffer, by role. Torch-free; follows
// MinimindParameters' order.
#pragma once

#include <cstdint>
#include <vector>

#include "worker/formats/model_config.h"

namespace mindforge {

// Sizes that every backend needs, named once.
struct ModelSizes {
  int64_t layers, hidden, vocab, heads, kv_heads, head_dim, inner;
  int64_t attention;  // heads · head_dim
  int64_t qkv;        // (heads + 2 · kv_heads) · head_dim, the fused projection's rows

  explicit ModelSizes(const ModelConfig& c)
      : layers(c.num_hidden_layers),
        hidden(c.hidden_size),
        vocab(c.vocab_size),
        heads(c.num_attention_heads),
        kv_heads(c.num_key_value_heads),
        head_dim(c.HeadDim()),
        inner(c.IntermediateSize()),
        attention(heads * head_dim),
        qkv((heads + 2 * kv_heads) * head_dim) {}
};

// Where a layer's matrices begin: qkv [qkv, hidden], o [hidden, attention], gate_up
// [2 · inner, hidden], down [hidden, inner].
struct LayerOffsets {
  int64_t qkv, o, norm1, norm2, gate_up, down;
};

struct ModelOffsets {
  std::vector<LayerOffsets> layers;
  int64_t embedding = 0;
  int64_t norm = 0;
  int64_t head = 0;  // the embedding's when tied

  ModelOffsets(const ModelSizes& s, bool tied) {
    int64_t at = s.vocab * s.hidden;
    for (int64_t i = 0; i < s.layers; ++i) {
      LayerOffsets layer;
      layer.qkv = at;
      layer.o = layer.qkv + s.qkv * s.hidden;
      layer.norm1 = layer.o + s.hidden * s.attention;
      layer.norm2 = layer.norm1 + s.hidden;
      layer.gate_up = layer.norm2 + s.hidden;
      layer.down = layer.gate_up + 2 * s.inner * s.hidden;
      at = layer.down + s.hidden * s.inner;
      layers.push_back(layer);
    }
    norm = at;
    head = tied ? 0 : norm + s.hidden;
  }
};

}  // namespace mindforge
