// The gRPC services over a real server, with agents played by the test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/coordinator/service_fixture.h"

namespace mindforge {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;

class ServicesTest : public ServiceFixture {};

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

TEST_F(ServicesTest, TheSameRequestIsTheSameJob) {
  v1::SubmitJobResponse first, second;
  ASSERT_TRUE(Submit(GoodJob("tang"), "one", &first).ok());
  EXPECT_EQ(first.job().state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(first.job().spec().model().hidden_size(), 512) << "defaults are filled in";
  ASSERT_TRUE(Submit(GoodJob("tang"), "one", &second).ok());
  EXPECT_TRUE(second.already_submitted());
  EXPECT_EQ(second.job().id(), first.job().id());

  const absl::Status other = Submit(GoodJob("song"), "one", &second);
  EXPECT_EQ(other.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(GetReason(other), "REQUEST_ID_REUSED");
  const absl::Status taken = Submit(GoodJob("tang"), "two", &second);
  EXPECT_EQ(GetReason(taken), "JOB_NAME_TAKEN");
  EXPECT_THAT(MessageOf(taken), HasSubstr("choose another name"));
}

TEST_F(ServicesTest, EveryProblemIsToldAtOnceWithItsField) {
  v1::JobSpec bad = GoodJob("tang");
  bad.mutable_training()->set_dtype("int8");
  bad.mutable_workers()->set_device("tpu");
  v1::SubmitJobResponse response;
  const absl::Status status = Submit(bad, "", &response);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(GetReason(status), "INVALID_JOB");
  const auto violations = GetViolations(status);
  ASSERT_EQ(violations.size(), 3u);
  EXPECT_EQ(violations[0].field, "training.dtype");
  EXPECT_EQ(violations[1].field, "workers.device");
  EXPECT_EQ(violations[2].field, "request_id");
}

TEST_F(ServicesTest, ValidateOnlyStoresNothing) {
  v1::SubmitJobRequest request;
  *request.mutable_job() = GoodJob("tang");
  request.set_validate_only(true);
  v1::SubmitJobResponse response;
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::SubmitJob, request, &response).ok());
  EXPECT_EQ(response.job().spec().training().dtype(), "bfloat16");
  v1::ListJobsResponse list;
  ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::ListJobs, v1::ListJobsRequest(), &list).ok());
  EXPECT_EQ(list.jobs_size(), 0);
}

TEST_F(ServicesTest, WhatIsNotThereIsNamed) {
  v1::GetJobRequest get;
  get.set_job("nobody");
  v1::GetJobResponse got;
  const absl::Status job = Call(*jobs_, &v1::JobService::Stub::GetJob, get, &got);
  EXPECT_EQ(GetReason(job), "JOB_NOT_FOUND");
  EXPECT_THAT(MessageOf(job), HasSubstr("nobody"));
  EXPECT_EQ(Cancel("nobody").code(), absl::StatusCode::kNotFound);
  v1::GetWorkerRequest worker;
  worker.set_worker("nobody");
  v1::GetWorkerResponse worker_response;
  EXPECT_EQ(
      GetReason(Call(*workers_, &v1::WorkerService::Stub::GetWorker, worker, &worker_response)),
      "WORKER_NOT_FOUND");
  v1::GetDeploymentRequest deployment;
  deployment.set_name("nobody");
  v1::GetDeploymentResponse deployment_response;
  EXPECT_EQ(GetReason(Call(*deployments_, &v1::DeploymentService::Stub::GetDeployment, deployment,
                           &deployment_response)),
            "DEPLOYMENT_NOT_FOUND");
}

TEST_F(ServicesTest, ListsNewestFirstInPages) {
  for (int i = 0; i < 5; ++i) SubmitGood(absl::StrCat("job-", i));
  ASSERT_TRUE(Cancel("job-3").ok());
  v1::ListJobsRequest request;
  request.set_page_size(2);
  request.add_states(v1::JOB_STATE_QUEUED);
  std::vector<std::string> names;
  do {
    v1::ListJobsResponse page;
    ASSERT_TRUE(Call(*jobs_, &v1::JobService::Stub::ListJobs, request, &page).ok());
    EXPECT_LE(page.jobs_size(), 2);
    for (const v1::Job& job : page.jobs()) names.push_back(job.spec().name());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_THAT(names, testing::ElementsAre("job-4", "job-2", "job-1", "job-0"));
  request.set_page_token("nonsense");
  v1::ListJobsResponse page;
  EXPECT_EQ(Call(*jobs_, &v1::JobService::Stub::ListJobs, request, &page).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ServicesTest, AJobRunsThroughItsAgentToTheEnd) {
  const v1::Job job = SubmitGood("tang");
  EXPECT_THAT(job.reason(), HasSubstr("no worker is registered"));
  v1::SynchronizeRequest report = Obey("w1");
  EXPECT_EQ(Get("tang").state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Get("tang").members(0).worker(), "w1");

  for (int step = 1; step <= 3; ++step) {
    v1::SpooledProgress* progress = report.add_progress();
    progress->set_number(step);
    progress->set_job_id(job.id());
    progress->mutable_record()->set_step(step);
    progress->mutable_record()->set_total_steps(3);
    progress->mutable_record()->set_generation(1);
    progress->mutable_record()->set_loss(10 - step);
    progress->mutable_record()->set_step_seconds(0.5);
    v1::SpooledLog* log = report.add_logs();
    log->set_number(step);
    log->set_job_id(job.id());
    log->mutable_line()->set_text(absl::StrCat("line ", step));
  }
  v1::SpooledCheckpoint* checkpoint = report.add_checkpoints();
  checkpoint->set_number(1);
  checkpoint->set_job_id(job.id());
  checkpoint->mutable_checkpoint()->set_step(3);
  checkpoint->mutable_checkpoint()->set_generation(1);
  checkpoint->mutable_checkpoint()->set_path("/data/checkpoints/step-3.g1");
  checkpoint->mutable_checkpoint()->set_final(true);
  v1::SynchronizeResponse response;
  ASSERT_TRUE(Synchronize(report, &response).ok());
  EXPECT_EQ(response.progress_acknowledged(), 3);
  EXPECT_EQ(response.logs_acknowledged(), 3);
  EXPECT_EQ(response.checkpoints_acknowledged(), 1);

  const v1::Job done = Get("tang");
  EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(done.last_checkpoint_step(), 3);
  EXPECT_EQ(done.progress().step(), 3);
  EXPECT_EQ(done.progress().first_loss(), 9);

  grpc::ClientContext logs_context, metrics_context;
  SetDeadline(logs_context, kCallTimeout);
  SetDeadline(metrics_context, kCallTimeout);
  v1::StreamJobLogsRequest logs;
  logs.set_job("tang");
  logs.set_after(1);
  auto lines = jobs_->StreamJobLogs(&logs_context, logs);
  v1::StreamJobLogsResponse line;
  std::vector<std::string> texts;
  while (lines->Read(&line)) texts.push_back(line.line().text());
  EXPECT_TRUE(lines->Finish().ok());
  EXPECT_THAT(texts, testing::ElementsAre("line 2", "line 3"));
  v1::StreamJobMetricsRequest metrics;
  metrics.set_job(job.id());
  metrics.set_follow(true);
  auto records = jobs_->StreamJobMetrics(&metrics_context, metrics);
  v1::StreamJobMetricsResponse record;
  int count = 0;
  while (records->Read(&record)) EXPECT_EQ(record.record().step(), ++count);
  EXPECT_TRUE(records->Finish().ok());
  EXPECT_EQ(count, 3);
}

TEST_F(ServicesTest, ShowsSkippedStepsAndValidationAlsoAfterARestart) {
  const v1::Job job = SubmitGood("tang");
  v1::SynchronizeRequest report = Obey("w1");
  report.mutable_device_status(0)->mutable_status()->set_skipped_lines(7);
  for (int step = 1; step <= 3; ++step) {
    v1::SpooledProgress* progress = report.add_progress();
    progress->set_number(step);
    progress->set_job_id(job.id());
    v1::ProgressRecord& record = *progress->mutable_record();
    record.set_step(step);
    record.set_generation(1);
    record.set_loss(10 - step);
    record.set_loss_scale(65536 >> step);
  }
  report.mutable_progress(1)->mutable_record()->set_validation_loss(4.5);
  v1::ProgressRecord& skipped = *report.mutable_progress(2)->mutable_record();
  skipped.set_skipped(true);
  skipped.set_skipped_steps(1);
  skipped.set_loss(std::numeric_limits<double>::quiet_NaN());
  skipped.set_gradient_norm(std::numeric_limits<double>::infinity());
  v1::SpooledCheckpoint* checkpoint = report.add_checkpoints();
  checkpoint->set_number(1);
  checkpoint->set_job_id(job.id());
  checkpoint->mutable_checkpoint()->set_step(2);
  checkpoint->mutable_checkpoint()->set_generation(1);
  checkpoint->mutable_checkpoint()->set_path("/data/checkpoints/step-2.g1");
  checkpoint->mutable_checkpoint()->set_loss(std::numeric_limits<double>::quiet_NaN());
  checkpoint->mutable_checkpoint()->set_validation_loss(4.5);
  v1::SynchronizeResponse response;
  ASSERT_TRUE(Synchronize(report, &response).ok());

  for (const bool restart : {false, true}) {
    SCOPED_TRACE(restart ? "after a restart" : "at once");
    if (restart) {
      coordinator_.reset();
      Start();
    }
    const v1::Job shown = Get("tang");
    EXPECT_EQ(shown.skipped_lines(), 7);
    EXPECT_EQ(shown.progress().step(), 3);
    EXPECT_EQ(shown.progress().loss(), 8) << "a skipped step's is not the model's";
    EXPECT_EQ(shown.progress().first_loss(), 9);
    EXPECT_EQ(shown.progress().validation_loss(), 4.5);
    EXPECT_EQ(shown.progress().loss_scale(), 8192);
    EXPECT_EQ(shown.progress().skipped_steps(), 1);
    v1::ListCheckpointsRequest request;
    request.set_job("tang");
    v1::ListCheckpointsResponse listed;
    ASSERT_TRUE(
        Call(*checkpoints_, &v1::CheckpointService::Stub::ListCheckpoints, request, &listed).ok());
    ASSERT_EQ(listed.checkpoints_size(), 1);
    EXPECT_EQ(listed.checkpoints(0).validation_loss(), 4.5);
  }
}

TEST_F(ServicesTest, AWatcherSeesEveryStateAndTheEnd) {
  SubmitGood("tang");
  grpc::ClientContext context;
  SetDeadline(context, kCallTimeout);
  v1::WatchJobRequest request;
  request.set_job("tang");
  auto watch = jobs_->WatchJob(&context, request);
  v1::WatchJobResponse seen;
  ASSERT_TRUE(watch->Read(&seen));
  EXPECT_EQ(seen.job().state(), v1::JOB_STATE_QUEUED);
  const int64_t revision = seen.job().revision();
  ASSERT_TRUE(Cancel("tang").ok());
  while (watch->Read(&seen)) EXPECT_GT(seen.job().revision(), revision);
  EXPECT_EQ(seen.job().state(), v1::JOB_STATE_CANCELLED);
  EXPECT_TRUE(watch->Finish().ok());
}

TEST_F(ServicesTest, AParkedAgentIsToldAtOnce) {
  v1::SynchronizeRequest request = Report("w1");
  v1::SynchronizeResponse registered;
  ASSERT_TRUE(Synchronize(request, &registered).ok());
  request.set_no_park(false);
  request.set_known_version(registered.desired_version());
  v1::SynchronizeResponse response;
  absl::Status status;
  std::thread parked([&] { status = Synchronize(request, &response); });
  const absl::Time before = absl::Now();
  SubmitGood("tang");
  parked.join();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(response.devices(0).start().spec().name(), "tang");
  EXPECT_LT(absl::Now() - before, absl::Seconds(2)) << "well before the park's five seconds";
}

TEST_F(ServicesTest, ABadReportIsRefusedByField) {
  v1::SynchronizeRequest request = Report("w1");
  request.clear_worker_id();
  request.set_call_number(-1);
  *request.add_devices() = request.devices(0);
  v1::SynchronizeResponse response;
  const absl::Status status = Synchronize(request, &response);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(GetViolations(status), Contains(Field(&FieldViolation::field, "worker_id")));
  EXPECT_THAT(GetViolations(status), Contains(Field(&FieldViolation::field, "call_number")));
  EXPECT_THAT(GetViolations(status), Contains(Field(&FieldViolation::field, "devices[1].id")));
}

TEST_F(ServicesTest, AVerificationGoesThroughTheAgent) {
  const v1::Job job = SubmitGood("tang");
  v1::SynchronizeRequest report = Obey("w1");
  v1::SpooledCheckpoint* checkpoint = report.add_checkpoints();
  checkpoint->set_number(1);
  checkpoint->set_job_id(job.id());
  checkpoint->mutable_checkpoint()->set_step(5);
  checkpoint->mutable_checkpoint()->set_generation(1);
  checkpoint->mutable_checkpoint()->set_path("/ck/step-5.g1");
  v1::SynchronizeResponse response;
  ASSERT_TRUE(Synchronize(report, &response).ok());
  v1::VerifyCheckpointRequest verify;
  verify.set_job("tang");
  verify.set_step(5);
  verify.set_request_id("v");
  v1::VerifyCheckpointResponse verifying;
  ASSERT_TRUE(
      Call(*checkpoints_, &v1::CheckpointService::Stub::VerifyCheckpoint, verify, &verifying).ok());
  EXPECT_EQ(verifying.checkpoint().verification(), v1::VERIFICATION_STATE_PENDING);
  ASSERT_TRUE(Synchronize(report, &response).ok());
  ASSERT_EQ(response.verify_paths_size(), 1);
  v1::VerifyResult* result = report.add_verify_results();
  result->set_path(response.verify_paths(0));
  result->set_valid(true);
  ASSERT_TRUE(Synchronize(report, &response).ok());
  v1::GetCheckpointRequest get;
  get.set_job("tang");
  get.set_step(5);
  v1::GetCheckpointResponse got;
  ASSERT_TRUE(Call(*checkpoints_, &v1::CheckpointService::Stub::GetCheckpoint, get, &got).ok());
  EXPECT_EQ(got.checkpoint().verification(), v1::VERIFICATION_STATE_VALID);
}

TEST_F(ServicesTest, ADeploymentReachesAnInferenceWorker) {
  v1::InferenceAgentServiceSynchronizeRequest report;
  report.set_worker_id("i1");
  report.set_name("i1");
  report.set_address("127.0.0.1:1");
  report.set_incarnation("one");
  report.set_no_park(true);
  v1::InferenceAgentServiceSynchronizeResponse desired;
  const auto synchronize = [&] {
    return Call(*inference_, &v1::InferenceAgentService::Stub::Synchronize, report, &desired);
  };
  ASSERT_TRUE(synchronize().ok());
  EXPECT_FALSE(desired.has_model());
  report.set_no_park(false);
  report.set_known_version(desired.desired_version());
  absl::Status status;
  std::thread parked([&] { status = synchronize(); });
  v1::DeployModelRequest deploy;
  deploy.mutable_deployment()->set_name("chat");
  deploy.mutable_deployment()->set_path("/model");
  deploy.mutable_deployment()->set_lora_path("/polite.pth");
  deploy.mutable_deployment()->mutable_rope_scaling()->set_type("yarn");
  deploy.mutable_deployment()->mutable_rope_scaling()->set_factor(8);
  deploy.set_request_id("d");
  v1::DeployModelResponse deployed;
  const absl::Status done =
      Call(*deployments_, &v1::DeploymentService::Stub::DeployModel, deploy, &deployed);
  parked.join();
  ASSERT_TRUE(done.ok()) << done;
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(desired.model().deployment(), "chat");
  EXPECT_EQ(desired.model().path(), "/model");
  EXPECT_EQ(desired.model().lora_path(), "/polite.pth");
  EXPECT_EQ(desired.model().rope_scaling().type(), "yarn");
  EXPECT_EQ(desired.model().rope_scaling().factor(), 8);
  EXPECT_EQ(deployed.deployment().spec().lora_path(), "/polite.pth");
  EXPECT_EQ(deployed.deployment().spec().rope_scaling().factor(), 8);
  EXPECT_EQ(deployed.deployment().state(), v1::DEPLOYMENT_STATE_LOADING);
  deploy.mutable_deployment()->set_name("Bad");
  deploy.mutable_deployment()->clear_source();
  deploy.mutable_deployment()->set_lora_path("polite.pth");
  deploy.mutable_deployment()->mutable_rope_scaling()->set_type("none");
  const absl::Status bad =
      Call(*deployments_, &v1::DeploymentService::Stub::DeployModel, deploy, &deployed);
  std::set<std::string> fields;
  for (const FieldViolation& problem : GetViolations(bad)) fields.insert(problem.field);
  EXPECT_THAT(fields, ElementsAre("deployment.lora_path", "deployment.name",
                                  "deployment.rope_scaling.factor", "deployment.source"));
}

TEST_F(ServicesTest, ADeploymentsPathHoldsNoZeroByte) {
  v1::DeployModelRequest deploy;
  deploy.mutable_deployment()->set_name("chat");
  deploy.mutable_deployment()->set_path(std::string("/model\0/other", 13));
  deploy.mutable_deployment()->set_lora_path(std::string("/polite\0.pth", 12));
  deploy.set_request_id("d");
  v1::DeployModelResponse deployed;
  const absl::Status status =
      Call(*deployments_, &v1::DeploymentService::Stub::DeployModel, deploy, &deployed);
  const auto violations = GetViolations(status);
  ASSERT_EQ(violations.size(), 2u) << status;
  EXPECT_EQ(violations[0].field, "deployment.path");
  EXPECT_THAT(violations[0].description, HasSubstr("'/model' with a zero byte"));
  EXPECT_EQ(violations[1].field, "deployment.lora_path");
}

TEST_F(ServicesTest, ADrainAnswersWhoWaitsAndKeepsWhatWasPromised) {
  const v1::Job job = SubmitGood("tang");
  grpc::ClientContext context;
  SetDeadline(context, kCallTimeout);
  v1::WatchJobRequest request;
  request.set_job("tang");
  auto watch = jobs_->WatchJob(&context, request);
  v1::WatchJobResponse seen;
  ASSERT_TRUE(watch->Read(&seen));
  coordinator_->Drain(absl::Seconds(10));
  EXPECT_FALSE(watch->Read(&seen));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  coordinator_.reset();
  Start();
  EXPECT_EQ(Get("tang").id(), job.id());
}

}  // namespace
}  // namespace mindforge
