// llama.cpp's names of tensors for ours. A mixture's experts lie there in one stack a projection.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mindforge {

// "model.layers.7.mlp.up_proj.weight" -> "blk.7.ffn_up.weight", or back; "" when there is none.
std::string GgufName(std::string_view name, bool to_gguf);

// "model.layers.7.mlp.experts.3.up_proj.weight" -> "blk.7.ffn_up_exps.weight" and expert 3; false
// when it is no expert's.
bool SplitExpertName(std::string_view name, std::string* stack, int64_t* expert);
// "blk.7.ffn_up_exps.weight" and 3 -> "model.layers.7.mlp.experts.3.up_proj.weight"; "" when it is
// no stack of experts.
std::string ExpertName(std::string_view stack, int64_t expert);

}  // namespace mindforge
