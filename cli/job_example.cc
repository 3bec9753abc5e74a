// What `mindforge job example` prints: a job file's fields with their defaults, or commented out
// where a default stands in their place.
#include "cli/job_file.h"

namespace mindforge::cli {
namespace {

constexpr char kExample[] =
    R"(# A Mindforge training job: `mindforge job submit -f job.yaml --follow`.
# A key that is not known is an error. Relative paths are taken from this file's folder.
name: tang-26m                 # [a-z0-9-], at most 63; unique among live jobs

# recipe: minimind3            # minimind2 | minimind3: what this file leaves out takes what that
                               # release of the reference has (shape, eps, norms, schedule, rate,
                               # epochs, lengths; for conversations those of its fine-tuning): take
                               # out the lines that it shall decide. `job submit --dry-run` and
                               # `job get` show what it came to

model:                         # config.json's names; what is left out takes MiniMind's defaults
  hidden_size: 512
  num_hidden_layers: 8
  # vocab_size: 6400           # the tokenizer's size
  # num_attention_heads: 8
  # num_key_value_heads: 2
  # rms_norm_eps: 1e-5
  # qk_norm: true              # as MiniMind-3 has it
  # dropout: 0.1
  # use_moe: true              # a mixture of experts; what follows are its defaults
  # num_experts_per_tok: 2     # 1 in MiniMind-3's
  # n_routed_experts: 4        # of MiniMind2's mixture, as are n_shared_experts: 1,
                               # aux_loss_alpha: 0.1 and seq_aux: true
  # num_experts: 4             # of MiniMind-3's mixture instead, as are moe_intermediate_size and
                               # router_aux_loss_coef: 5e-4

data:
  path: /data/pretrain_hq.jsonl  # one JSON object a line, in UTF-8; .jsonl, .jsonl.gz, .jsonl.zst,
                               # or a folder of such files
  # format: conversations      # text (the default): a field `text`; conversations: a list
                               # `conversations` of {role, content}, rendered by the chat template
                               # of the tokenizer's folder, with a loss on the assistant's turns
  # more_paths: [/data/more]   # read after it
  tokenizer: /data/tokenizer     # a folder with tokenizer.json, or that file
  max_seq_len: 512
  packing: false               # true: texts joined into full rows (faster); false: one text a row
  # add_bos_eos: true          # bos before and eos after each text, as MiniMind-3; default false
  # random_system_fraction: 0.2     # of conversations, as the reference, default 0: the share that
                                    # gets a system line,
  # drop_empty_think_fraction: 0.8  # and the share whose empty think blocks are left out
  malformed_lines: refuse      # refuse | skip: lines that cannot be read, not UTF-8, …
  validation_fraction: 0       # share of the rows, up to 0.5, held out of training; their loss is
                               # computed at every checkpoint

training:
  epochs: 1
  microbatch_size: 32          # sequences that a device computes at once
  accumulation_steps: 8        # microbatches an optimizer step; the global batch is their product,
                               # whatever the number of workers
  learning_rate: 5e-4
  # schedule: cosine_from_lr   # from the rate to a tenth of it, as MiniMind-3; cosine (the
                               # default): from 1.1 of the rate, as MiniMind2
  grad_clip: 1.0               # 0 turns clipping off
  weight_decay: 0.01
  dtype: bfloat16              # bfloat16 | float16 (with dynamic loss scaling) | float32
  seed: 42
  max_steps: 0                 # 0: the epochs decide
  init_from: ""                # a model to start from: its folder, a checkpoint's folder, a
                               # .safetensors or a .pth file; empty: fresh weights
  nan_policy: stop             # when a step's gradient is not finite: stop | skip (leave the step
                               # out) | rollback (to the newest checkpoint, leaving out the steps
                               # since)

# lora:                        # freeze the model of init_from and train adapters beside it
#   rank: 8

workers:
  min: 1                       # the job waits until so many devices are free
  max: 8                       # and grows up to so many; at most accumulation_steps
  device: any                  # any | cpu | cuda; one kind, fixed at the first placement

priority: 0                    # higher first

checkpoint:
  every_steps: 100             # 0: only the last step
  keep_last: 3
  keep_every: 0                # also keep each step that is a multiple of this; 0: none
  dir: /data/checkpoints       # on storage that all workers of the job see

log_every_steps: 10            # a step is one optimizer update = accumulation_steps microbatches
max_failures: 3                # failures that are not a lost worker's, before the job is FAILED
)";

}  // namespace

const char* ExampleJobFile() { return kExample; }

}  // namespace mindforge::cli
