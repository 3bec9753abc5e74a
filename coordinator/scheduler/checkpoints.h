// Committing, verifying and deleting checkpoints. Internal to this room.
#pragma once

#include <string>
#include <vector>

#include "coordinator/scheduler/context.h"

namespace mindforge::sched {

// An agent found a finished folder. It is committed when its job has not ended and it is of the
// newest generation, or of an older one while nothing newer has got to its step; else it is refused
// and its folder deleted. The last step's ends the job.
void Commit(Context& c, const JobId& job, const WorkerId& worker, const CheckpointWritten& written);

// Commits what may be committed of an older generation; leaves the rest to Commit.
void Adopt(Context& c, const JobId& job, const WorkerId& worker, const CheckpointWritten& written);

// A trainer read a resume point back wrong: it is never used again.
void MarkCorrupt(Context& c, const JobId& job, const CheckpointCorrupt& corruption);

// A worker has read a folder back as it was asked to, or could not: then nothing is known of its
// content, and the checkpoint stays as it is.
void Verified(Context& c, const std::string& worker_name, const VerifyResult& result);

// Folders that are gone.
void Deleted(Context& c, const std::vector<std::string>& paths);

// Marks what retention lets go of.
void Retain(Context& c, Job& job);

// A person's wish. False: refused, with the status in the outcome.
bool Change(Context& c, Job& job, const ChangeCheckpoint& command);

// The worker that reads or deletes this folder: its writer, else a live member of the job, else any
// live worker; empty: none is live.
WorkerId CaretakerOf(const State& state, const JobId& job, const WorkerId& writer);

}  // namespace mindforge::sched
