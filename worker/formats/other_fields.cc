// The tables.
#include "worker/formats/other_fields.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "worker/formats/inert_value.h"

namespace mindforge {
namespace {

using Json = nlohmann::json;

struct Group {
  Inert inert;
  std::string_view why;  // what is computed instead
  std::string_view names;
};

// Dropout counts as silent: it is of training, where the job's own model says it.
constexpr Group kFields[] = {
    {Inert::kSilent, "",
     "_attn_implementation _attn_implementation_autoset _commit_hash "
     "_experts_implementation _flash_attn_2_enabled _name_or_path activation_dropout "
     "architectures attention_dropout attention_dropout_prob attention_probs_dropout_prob "
     "attention_softmax_in_fp32 attn_implementation attn_pdrop auto_map aux_loss_alpha "
     "aux_loss_coef bad_words_ids block_auto_adjust_ff_dim block_ffn_dim_multiplier "
     "block_multiple_of chunk_size_feed_forward cla_share_factor classifier_dropout "
     "cls_token_id decoder_start_token_id dtype emb_pdrop embd_pdrop embed_dropout "
     "embedding_dropout embedding_initializer_range enable_moe_fp32_combine eod_token_id "
     "ffn_dim_multiplier ffn_pdrop finetuning_task flash_attn_type floor_scale "
     "gradient_checkpointing hidden_dropout hidden_dropout_prob id2label init_device "
     "init_std initializer_factor initializer_range is_decoder keys_to_ignore_at_inference "
     "label2id layerdrop logits_to_keep lora_rank make_ngram_vocab_size_divisible_by "
     "mask_token_id max_length max_window_layers mindforge_prompt_style mlp_dropout "
     "model_max_length moe_shared_expert_overlap mtp_hidden_states_first mtp_layer_types "
     "mtp_layers_block_type mtp_local_layer_ids mtp_loss_scaling_factor mtp_mlp_layer_types "
     "multiple_of num_logits_to_keep num_mtp_layers num_nextn_predict_layers "
     "output_attentions output_hidden_states output_router_logits pad_token_id prefix "
     "problem_type pruned_heads rescale_prenorm_residual resid_dropout resid_pdrop "
     "residual_dropout residual_in_fp32 return_dict router_aux_loss_coef router_z_loss_coef "
     "scale_attention_softmax_in_fp32 seed sep_token_id seq_aux task_specific_params "
     "tf_legacy_loss tie_encoder_decoder tokenizer_class torch_dtype torchscript "
     "transformers.js_config transformers_version unk_token_id unsloth_fixed "
     "unsloth_version use_associative_scan use_bfloat16 use_cache use_flash_attention "
     "use_flash_attn use_mamba_kernels use_mambapy z_loss_coefficient"},
    {Inert::kFalse, "attention within a window is not computed", "use_sliding_window"},
    {Inert::kFullAttention, "only full attention is computed", "layer_types"},
    {Inert::kNone, "attention within a window is not computed",
     "attention_chunk_size attention_type attention_types attention_window_size "
     "attn_layer_indices attn_layer_offset attn_layer_period full_attn_idxs "
     "global_attn_every_n_layers keep_window_size local_attention local_layer_ids "
     "prefix_dense_sliding_window_pattern sliding_window_pattern sliding_window_size "
     "window_size"},
    {Inert::kNone, "other kinds of layers are not computed",
     "H_cycles L_bp_cycles L_cycles attn_config attn_type_list block_configs block_size "
     "block_types chunk_size conv_L_cache d_rel expand ffn_config full_attention_interval "
     "gated_norm_rank heads_per_ngram hybrid_override_pattern layer_group_size "
     "layers_block_type lru_width n_groups n_layers_per_attn_res_block num_layers_per_stack "
     "num_mem_blocks rel_extent short_conv_kernel_size split_ngram_parts"},
    {Inert::kAllOnes, "every layer has rotary positions", "no_rope_layers"},
    {Inert::kZero, "every layer has rotary positions",
     "no_rope_layer_interval nope_layer_interval nope_layers"},
    {Inert::kFalse, "every layer has rotary positions",
     "alibi learned_pos_emb nope use_alibi use_learned_position_embeddings use_nope"},
    {Inert::kTrue, "every layer has rotary positions", "rope rotary use_rope use_rotary"},
    {Inert::kRope, "only rotary positions are computed", "position_embedding_type"},
    {Inert::kOne, "the rotary positions cover the whole head",
     "partial_rotary_factor rope_pct rope_ratio rotary_pct rotary_percent"},
    {Inert::kHeadDim, "the rotary positions cover the whole head", "rotary_dim rotary_ndims"},
    {Inert::kFalse, "rotary positions turn the two halves of a head",
     "interleaved_rope rope_interleave rope_interleaved rotary_interleaved "
     "use_interleaved_rope"},
    {Inert::kTrue, "rotary positions turn the two halves of a head", "is_neox_style"},
    {Inert::kRopeTheta, "rope_theta is the one base of every layer",
     "compress_rope_theta global_rope_theta layer_rope_theta local_rope_theta rope_base "
     "rope_local_base_freq rope_local_theta rotary_base rotary_emb_base swa_rope_theta"},
    {Inert::kOriginal, "rope_scaling says it", "original_max_position_embeddings"},
    {Inert::kOne, "rope_scaling says it", "rope_scaling_factor"},
    {Inert::kFalse, "attention is not rescaled by length",
     "attn_temperature_tuning logn_attention use_dynamic_ntk use_logn_attn use_long_context"},
    {Inert::kNone, "logits are neither capped nor cut",
     "attn_logit_softcap attn_logit_softcapping final_logit_softcap final_logit_softcapping "
     "logits_soft_cap mlp_gate_softcap mlp_up_softcap output_logit_soft_cap "
     "qk_l2_clip_threshold rel_l2_clip_threshold unpadded_vocab_size"},
    {Inert::kZero, "logits are not capped",
     "moe_router_logit_softcapping router_logit_softcapping"},
    {Inert::kHeadDim, "scores are divided by the root of head_dim", "query_pre_attn_scalar"},
    {Inert::kScoreScale, "scores are divided by the root of head_dim",
     "attention_multiplier attention_scale attn_scale softmax_scale"},
    {Inert::kOne, "nothing is multiplied by it",
     "attention_in_multiplier attention_out_multiplier attention_value_scale emb_scale "
     "embed_scale embedding_fraction embedding_multiplier embedding_scale key_multiplier "
     "lm_head_multiplier logit_multiplier logit_scale logits_mup_width_multiplier "
     "logits_scaling mup_width_multiplier residual_multiplier residual_scale scale_emb "
     "width_mult"},
    {Inert::kAllOnes, "nothing is multiplied by it", "mlp_multipliers ssm_multipliers"},
    {Inert::kNone, "nothing is multiplied by it",
     "full_attn_alpha_factor full_attn_beta_factor lambda_std_dev linear_attn_alpha_factor "
     "linear_attn_beta_factor log_scaling_alpha log_scaling_n_floor mlp_alpha_factor "
     "mlp_beta_factor scale_depth"},
    {Inert::kHiddenSize, "nothing is multiplied by it", "dim_model_base mup_base_width"},
    {Inert::kFalse, "nothing is multiplied by it",
     "mup_enabled normalize_embeddings scale_attn_by_inverse_layer_idx scale_embedding "
     "scale_embeddings use_mup"},
    {Inert::kTrue, "scores are divided by the root of head_dim", "scale_attn_weights"},
    {Inert::kFalse, "projections have no bias",
     "add_bias add_bias_linear add_qkv_bias attention_bias attention_out_bias attn_bias "
     "bias enable_bias lm_head_bias mlp_bias norm_bias o_bias out_bias projection_bias "
     "projectors_bias qkv_bias use_attention_bias use_attn_bias use_bias use_bias_in_mlp "
     "use_qkv_bias"},
    {Inert::kTrue, "projections have no bias", "no_bias"},
    {Inert::kNone, "quantized weights are not read",
     "compression_config quant_config quantization quantization_config quantize"},
    {Inert::kSilu, "the MLP is gated by silu",
     "act_fn activation activation_function activation_type ffn_activation hidden_act "
     "hidden_activation mlp_hidden_act"},
    {Inert::kNone, "the MLP is gated by silu alone",
     "activation_sparsity_pattern clip_qkv swiglu_alpha swiglu_limit"},
    {Inert::kQkNorm, "q and k are normalised where q_norm and k_norm weights are there",
     "key_layernorm norm_qk qk_layer_norm qk_layernorm query_layernorm use_qk_layernorm "
     "use_qk_norm use_query_key_norm"},
    {Inert::kNone, "q and k are normalised by RMSNorm over a head", "qk_norm_eps qk_norm_type"},
    {Inert::kRmsNorm, "norms are RMSNorm",
     "layer_norm_type norm_class norm_function norm_type normalization normalization_type"},
    {Inert::kEps, "rms_norm_eps is the one of every norm",
     "layer_norm_eps layer_norm_epsilon layernorm_epsilon norm_eps norm_epsilon "
     "rms_norm_eps_moe_gate rms_norm_epsilon"},
    {Inert::kFalse, "norms multiply by the weight alone, before attention and MLP",
     "_remove_final_layer_norm add_out_norm add_unit_offset "
     "apply_residual_connection_post_layernorm chain_hidden_post_norm "
     "layernorm_zero_centered norm_add_unit_offset norm_after norm_head post_layer_norm "
     "post_norm rms_norm_add_unit_offset sandwich_norm use_conv_bias use_peri_norm "
     "use_post_norm use_sandwich_norm zero_centered_gamma"},
    {Inert::kTrue, "norms stand before attention and MLP",
     "do_layer_norm_before pre_norm use_pre_norm"},
    {Inert::kFalse, "attention and MLP follow each other",
     "new_decoder_architecture parallel_attn parallel_attn_mlp_res parallel_residual "
     "use_parallel_attention use_parallel_block use_parallel_residual"},
    {Inert::kFalse, "attention is causal, over one's own keys",
     "add_cross_attention attention_k_eq_v cross_attention is_encoder is_encoder_decoder "
     "prefix_lm use_bidirectional_attention use_cla"},
    {Inert::kNone, "attention is causal, over one's own keys",
     "cross_attention_hidden_size cross_attention_layers num_kv_shared_layers_list"},
    {Inert::kTrue, "attention is causal", "causal is_causal"},
    {Inert::kFalse, "attention has neither sinks nor gates",
     "add_full_attention_sink_bias add_swa_attention_sink_bias attention_gate "
     "attention_sink attention_sinks attn_output_gate elementwise_attn_output_gate "
     "gated_attention gating headwise_attn_output_gate learnable_sink use_attention_gate "
     "use_attention_sink use_attention_sinks use_gated_attention use_gated_attn "
     "use_output_gate"},
    {Inert::kZero, "attention has neither sinks nor gates",
     "attention_sink_size num_attention_sinks num_sink_tokens sink_size"},
    {Inert::kNone, "attention has neither sinks nor gates", "learnable_sink_init output_gate_type"},
    {Inert::kOne, "it changes the order of sums", "pretraining_tp"},
    {Inert::kNone, "attention is grouped-query attention of full rank",
     "kv_lora_rank num_attention_heads_per_layer num_key_value_heads_per_layer num_kv_heads "
     "num_ln_in_parallel_attn o_groups o_lora_rank q_lora_rank qk_head_dim qk_nope_head_dim "
     "qk_rope_head_dim"},
    {Inert::kHeadDim, "values are as wide as keys",
     "attention_head_dim d_kv kv_channels v_head_dim"},
    {Inert::kFalse, "num_key_value_heads says it", "multi_query multi_query_attention"},
    {Inert::kZero, "every layer computes its own keys and has one input",
     "adapter_rank hidden_size_per_layer_input laurel_rank num_kv_shared_layers "
     "vocab_size_per_layer_input"},
    {Inert::kNone, "sequences of other kinds are not read",
     "audio_config decoder_config encoder_config text_config thinker_config vision_config"},
    {Inert::kFalse, "another mixture of experts",
     "enable_expert_bias enable_moe_block is_moe moe_apply_router_weight_on_input "
     "moe_router_use_expert_bias moe_use_correction_bias moe_use_sigmoid shared_expert_sink "
     "use_aux_free_bias use_double_wide_mlp use_expert_bias use_mixed_mlp_moe use_moe "
     "use_routing_bias"},
    {Inert::kNoList, "every layer is of one kind", "mlp_only_layers moe_layers"},
    {Inert::kOne, "every layer is of one kind",
     "decoder_sparse_step expert_layer_period interleave_moe_layer_step moe_layer_freq "
     "moe_layer_interval"},
    {Inert::kZero, "every layer is of one kind",
     "expert_layer_offset first_k_dense_replace moe_layer_start_index num_dense_layers"},
    {Inert::kLast, "every layer is of one kind", "moe_layer_end_index"},
    {Inert::kMlpTypes, "every layer is of one kind", "mlp_layer_types"},
    {Inert::kZero, "another mixture of experts",
     "dense_intermediate_size input_jitter_noise intermediate_size_mlp moe_latent_size "
     "moe_norm_min moe_num_experts moe_num_shared_experts "
     "moe_shared_expert_intermediate_size n_routed_experts n_shared_experts num_experts "
     "num_local_experts num_moe_experts num_shared_expert num_shared_experts "
     "prefix_dense_intermediate_size router_jitter_noise shared_expert_intermediate_size "
     "shared_experts_intermediate_size shared_intermediate_size zero_expert_num"},
    {Inert::kGroups, "experts are chosen among all",
     "moe_n_group moe_topk_group n_group n_limited_groups num_expert_group topk_group"},
    {Inert::kOne, "experts are weighted by their scores alone",
     "moe_routed_scaling_factor moe_router_scaling_factor route_scale routed_scaling_factor "
     "router_scaling_factor"},
    {Inert::kSoftmax, "experts are weighted by softmax",
     "expert_selection_fn moe_router_score_function router_activation router_score_function "
     "score_func score_function scoring_func"},
    {Inert::kGreedy, "experts are chosen by their scores alone", "topk_method"},
    {Inert::kNone, "another mixture of experts",
     "expert_ffn_hidden_size ffn_hidden_size is_moe_list moe_k moe_top_k moe_topk "
     "num_experts_per_token router_hidden_size shared_expert_combination_strategy "
     "top_k_experts"},
};
constexpr Group kRopeFields[] = {
    {Inert::kSilent, "", "finetuned"},
    {Inert::kOne, "the rotary positions cover the whole head", "partial_rotary_factor"},
    {Inert::kNone, "every layer and token has the same rotary positions",
     "alpha compress full_attention high_freq_factor llama_4_scaling_beta local_rope_theta "
     "long_factor long_mscale low_freq_factor main mrope_section short_factor short_mscale "
     "sliding_attention"},
    {Inert::kNone, "attention_factor says it", "mscale mscale_all_dim"},
    {Inert::kFalse, "every layer and token has the same rotary positions",
     "interleaved mrope_interleaved"},
    {Inert::kTrue, "the ramp begins and ends at whole frequencies", "truncate"},
};
constexpr Group kDenseFields[] = {
    {Inert::kSilent, "", "moe_intermediate_size norm_topk_prob num_experts_per_tok"},
};

// Of kinds of layers that no dense transformer has, by the beginning of their fields' names.
constexpr std::array<std::string_view, 16> kPrefixes = {
    "cca_",  "compress_", "mamba_", "linear_", "ssm_",      "swa_", "index_", "indexer_",
    "conv_", "altup_",    "kda_",   "hc_",     "lightning", "ple_", "ngram_", "time_step_"};
constexpr std::string_view kPrefixWhy = "other kinds of layers are not computed";

// A window is none where it is switched off, or as long as any sequence.
bool IsNoWindow(const Json& json, const Json& window, const ModelConfig& config) {
  const Json use = json.value("use_sliding_window", Json());
  if (use.is_boolean()) return !use.get<bool>();
  const Json type = json.value("model_type", Json());
  if (type.is_string() && type.get<std::string>().starts_with("qwen")) return true;  // its default
  return window.is_number() &&
         window.get<double>() >= static_cast<double>(config.max_position_embeddings);
}

// Whether `word` is one of the words of `words`.
bool HasWord(std::string_view words, std::string_view word) {
  while (!words.empty()) {
    const size_t end = std::min(words.find(' '), words.size());
    if (words.substr(0, end) == word) return true;
    words.remove_prefix(std::min(end + 1, words.size()));
  }
  return false;
}

const Group* Find(absl::Span<const Group> groups, std::string_view name) {
  for (const Group& group : groups) {
    if (HasWord(group.names, name)) return &group;
  }
  return nullptr;
}

void Refuse(const std::string& name, const Json& value, std::string_view why, FieldReader* fields) {
  fields->Problem(
      name, absl::StrCat("is ", ShownJson(value), ", which is not supported: ", std::string(why)));
}

// False when nobody knows the field.
bool CheckOne(absl::Span<const Group> groups, const std::string& name, const Json& value,
              const ModelConfig& config, FieldReader* fields) {
  const Group* const group = Find(groups, name);
  if (group == nullptr) return false;
  if (!IsInert(group->inert, value, config)) Refuse(name, value, group->why, fields);
  return true;
}

}  // namespace

std::vector<std::string> CheckOtherFields(const Json& json, const ModelConfig& config,
                                          FieldReader* fields) {
  std::vector<std::string> unknown;
  for (const std::string& name : fields->Unread()) {
    const Json& value = json.at(name);
    if (name == "sliding_window") {
      if (!IsNoWindow(json, value, config)) {
        Refuse(name, value, "attention within a window is not computed", fields);
      }
      continue;
    }
    if (CheckOne(kFields, name, value, config, fields)) continue;
    if (!config.use_moe && CheckOne(kDenseFields, name, value, config, fields)) continue;
    const bool other_kind = std::any_of(kPrefixes.begin(), kPrefixes.end(),
                                        [&](auto prefix) { return name.starts_with(prefix); });
    if (!other_kind) {
      unknown.push_back(name);
    } else if (!IsEmptyValue(value)) {
      Refuse(name, value, kPrefixWhy, fields);
    }
  }
  return unknown;
}

std::vector<std::string> CheckOtherRopeFields(const Json& json, const ModelConfig& config,
                                              FieldReader* fields) {
  std::vector<std::string> unknown;
  for (const std::string& name : fields->Unread()) {
    if (!CheckOne(kRopeFields, name, json.at(name), config, fields)) unknown.push_back(name);
  }
  return unknown;
}

}  // namespace mindforge
