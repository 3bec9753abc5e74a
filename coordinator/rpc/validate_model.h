// Checks the shape of a submitted job's model, and that its fields are of one kind of mixture.
#pragma once

#include "coordinator/rpc/field_check.h"
#include "mindforge/v1/types.pb.h"

namespace mindforge {

// `job` is what `submitted` became with defaults filled in. True when the sizes of the model's
// projections are known, whatever else is wrong.
bool CheckModel(const v1::JobSpec& job, const v1::JobSpec& submitted, FieldCheck& check);

}  // namespace mindforge
