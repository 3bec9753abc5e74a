// A checkpoint's optimizer and place in the run, as the reference's `_resume.pth` says them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/hf_folder.h"
#include "worker/formats/resume_pth.h"
#include "worker/formats/safetensors.h"

namespace mindforge {

// Moments look into `optimizer`; the model is left to the caller.
struct ResumeSource {
  ResumePth resume;
  std::unique_ptr<SafetensorsFile> optimizer;
  std::vector<std::string> notes;
};

// INVALID_ARGUMENT: the folder is no checkpoint, or its optimizer does not fit its model.
absl::StatusOr<ResumeSource> ReadResumeSource(const ModelFolder& folder);

}  // namespace mindforge
