// What a submitted job leaves open: the values of its recipe, which is a release of the reference,
// or where it names none the defaults that types.proto's comments tell. A pure function; it checks
// nothing (validate_job.h).
#pragma once

#include <string>
#include <vector>

#include "mindforge/v1/types.pb.h"

namespace mindforge {

// The recipes by name.
std::vector<std::string> RecipeNames();

// Sets every optional field that is unset, so that the job means the same without its recipe. One
// whose recipe is not known gets the values of none.
void FillDefaults(v1::JobSpec& job);

// True when the model's fields, or else the job's recipe, say that a mixture is MiniMind-3's.
bool HasMiniMind3Mixture(const v1::JobSpec& job);

}  // namespace mindforge
