// A coordinator as an agent sees it: answers Synchronize with what a test wants, keeps each record
// once, acknowledges, and can go away and come back on the same port.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/check.h"
#include "common/grpc_server.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "mindforge/v1/worker_agent_service.grpc.pb.h"

namespace mindforge {

// Thread-safe.
class FakeCoordinator : public v1::WorkerAgentService::Service {
 public:
  FakeCoordinator() { Return(); }
  ~FakeCoordinator() override { GoAway(); }

  std::string address() const { return address_; }

  // Ends the server; calls under way are cut off.
  void GoAway() {
    {
      MutexLock lock(mutex_);
      away_ = true;
      changed_.SignalAll();
    }
    server_.reset();
  }
  void Return() {
    {
      MutexLock lock(mutex_);
      away_ = false;
    }
    auto server =
        GrpcServer::Start({.listen = address_.empty() ? "127.0.0.1:0" : address_}, {this});
    MF_CHECK_OK(server);
    server_ = *std::move(server);
    address_ = server_->address();
  }

  // What all devices of the worker should do from now on; those not named: nothing.
  void Want(const std::vector<v1::DesiredDevice>& desired) {
    MutexLock lock(mutex_);
    desired_ = desired;
    ++version_;
    changed_.SignalAll();
  }
  // Every later call ends so; OK: none does.
  void RefuseWith(absl::Status status) {
    MutexLock lock(mutex_);
    refusal_ = std::move(status);
    ++version_;
    changed_.SignalAll();
  }
  void AskVerify(const std::string& path) {
    MutexLock lock(mutex_);
    verify_.insert(path);
    ++version_;
    changed_.SignalAll();
  }
  void AskDelete(const std::string& path) {
    MutexLock lock(mutex_);
    delete_.insert(path);
    ++version_;
    changed_.SignalAll();
  }

  // What has been heard so far.
  struct Heard {
    int calls = 0;
    v1::SynchronizeRequest last;
    std::map<std::string, v1::DeviceStatus> devices;  // of the last request
    std::map<int64_t, v1::SpooledProgress> progress;  // by number, each once
    std::vector<std::string> log_texts;
    std::vector<v1::SpooledCheckpoint> checkpoints;
    std::map<std::string, v1::VerifyResult> verified;
    std::set<std::string> deleted;
    bool drained = false;
    bool misnumbered = false;  // two calls of an incarnation had one number, or none
  };
  Heard heard() const {
    MutexLock lock(mutex_);
    return heard_;
  }

  // Waits until `holds` of what was heard; false after thirty seconds, which only a loaded machine
  // comes near.
  bool WaitUntil(const std::function<bool(const Heard&)>& holds) {
    MutexLock lock(mutex_);
    return changed_.WaitFor(mutex_, absl::Seconds(30), [&] {
      mutex_.AssertHeld();
      return holds(heard_);
    });
  }

  grpc::Status Synchronize(grpc::ServerContext* context, const v1::SynchronizeRequest* request,
                           v1::SynchronizeResponse* response) override {
    MutexLock lock(mutex_);
    if (!refusal_.ok()) return ToGrpcStatus(refusal_);
    const int64_t call = ++calls_;
    if (request->incarnation() != incarnation_) call_numbers_.clear();
    incarnation_ = request->incarnation();
    if (request->spool() != spool_) {
      progress_acked_ = logs_acked_ = checkpoints_acked_ = corruptions_acked_ = 0;
    }
    spool_ = request->spool();
    Hear(*request);
    changed_.SignalAll();
    const bool park = !request->no_park() && request->known_version() == version_;
    if (park) {
      changed_.WaitFor(mutex_, absl::Seconds(5), [&] {
        mutex_.AssertHeld();
        return away_ || version_ != request->known_version() || calls_ != call ||
               context->IsCancelled();
      });
    }
    Answer(*request, response);
    return grpc::Status::OK;
  }

 private:
  void Hear(const v1::SynchronizeRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++heard_.calls;
    heard_.misnumbered |=
        request.call_number() < 1 || !call_numbers_.insert(request.call_number()).second;
    heard_.last = request;
    heard_.drained |= request.draining();
    heard_.devices.clear();
    for (const auto& status : request.device_status()) {
      heard_.devices[status.device_id()] = status;
    }
    for (const auto& spooled : request.progress()) {
      if (spooled.number() > progress_acked_) heard_.progress[spooled.number()] = spooled;
      progress_acked_ = std::max(progress_acked_, spooled.number());
    }
    for (const auto& spooled : request.logs()) {
      if (spooled.number() > logs_acked_) heard_.log_texts.push_back(spooled.line().text());
      logs_acked_ = std::max(logs_acked_, spooled.number());
    }
    for (const auto& spooled : request.checkpoints()) {
      if (spooled.number() > checkpoints_acked_) heard_.checkpoints.push_back(spooled);
      checkpoints_acked_ = std::max(checkpoints_acked_, spooled.number());
    }
    for (const auto& result : request.verify_results()) {
      heard_.verified[result.path()] = result;
      verify_.erase(result.path());
    }
    for (const auto& path : request.deleted_paths()) {
      heard_.deleted.insert(path);
      delete_.erase(path);
    }
  }

  void Answer(const v1::SynchronizeRequest& request, v1::SynchronizeResponse* response)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (const v1::Device& device : request.devices()) {
      v1::DesiredDevice* const desired = response->add_devices();
      desired->set_device_id(device.id());
      for (const v1::DesiredDevice& wanted : desired_) {
        if (wanted.device_id() == device.id()) *desired = wanted;
      }
    }
    response->set_desired_version(version_);
    response->set_progress_acknowledged(progress_acked_);
    response->set_logs_acknowledged(logs_acked_);
    response->set_checkpoints_acknowledged(checkpoints_acked_);
    response->set_corruptions_acknowledged(corruptions_acked_);
    for (const std::string& path : verify_) response->add_verify_paths(path);
    for (const std::string& path : delete_) response->add_delete_paths(path);
  }

  std::string address_;
  std::unique_ptr<GrpcServer> server_;

  mutable Mutex mutex_;
  CondVar changed_;
  bool away_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
  int64_t calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t version_ ABSL_GUARDED_BY(mutex_) = 1;
  std::string incarnation_ ABSL_GUARDED_BY(mutex_);
  std::string spool_ ABSL_GUARDED_BY(mutex_);
  std::set<int64_t> call_numbers_ ABSL_GUARDED_BY(mutex_);
  int64_t progress_acked_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t logs_acked_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t checkpoints_acked_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t corruptions_acked_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<v1::DesiredDevice> desired_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> verify_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> delete_ ABSL_GUARDED_BY(mutex_);
  Heard heard_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mindforge
