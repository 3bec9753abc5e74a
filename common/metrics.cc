#include "common/metrics.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/check.h"
#include "common/version.h"
#include "prometheus/text_serializer.h"

namespace mindforge {

// Runs the scrape callbacks before the registry is read.
class MetricsRegistry::Collector : public prometheus::Collectable {
 public:
  explicit Collector(std::shared_ptr<prometheus::Registry> registry)
      : registry_(std::move(registry)) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    // One scrape at a time, so that callbacks need not expect company.
    MutexLock lock(mutex_);
    for (const auto& callback : callbacks_) callback();
    return registry_->Collect();
  }

  void Add(std::function<void()> callback) {
    MutexLock lock(mutex_);
    callbacks_.push_back(std::move(callback));
  }

 private:
  const std::shared_ptr<prometheus::Registry> registry_;
  mutable Mutex mutex_;
  std::vector<std::function<void()>> callbacks_ ABSL_GUARDED_BY(mutex_);
};

namespace {

std::string FullName(const std::string& name) {
  return absl::StartsWith(name, "grpc_") ? name : absl::StrCat("mindforge_", name);
}

// The family called `name`, made by `build` at the first call.
template <typename Families, typename Build>
auto& FindOrAdd(Families& families, const std::string& name, const Build& build) {
  auto& slot = families[name];
  if (slot == nullptr) slot = build();
  return *slot;
}

}  // namespace

std::vector<double> ExponentialBuckets(double start, double factor, int count) {
  std::vector<double> bounds;
  for (double bound = start; static_cast<int>(bounds.size()) < count; bound *= factor) {
    bounds.push_back(bound);
  }
  return bounds;
}

std::vector<double> LatencyBuckets() { return ExponentialBuckets(1e-4, 2, 20); }

MetricsRegistry::MetricsRegistry(std::string_view program)
    : registry_(std::make_shared<prometheus::Registry>()),
      collector_(std::make_shared<Collector>(registry_)) {
  AddGauge("build_info", "Which build runs; the value is always 1.")
      .Get({{"program", std::string(program)}, {"version", kVersion}, {"build_type", kBuildType}})
      .Set(1);
}

MetricsRegistry::~MetricsRegistry() = default;

CounterFamily& MetricsRegistry::AddCounter(const std::string& name, const std::string& help) {
  MF_CHECK(absl::EndsWith(name, "_total")) << "counter " << name << " must end in _total";
  MutexLock lock(mutex_);
  return FindOrAdd(counters_, name, [&] {
    return std::make_unique<CounterFamily>(
        prometheus::BuildCounter().Name(FullName(name)).Help(help).Register(*registry_),
        std::vector<double>());
  });
}

GaugeFamily& MetricsRegistry::AddGauge(const std::string& name, const std::string& help) {
  MutexLock lock(mutex_);
  return FindOrAdd(gauges_, name, [&] {
    return std::make_unique<GaugeFamily>(
        prometheus::BuildGauge().Name(FullName(name)).Help(help).Register(*registry_),
        std::vector<double>());
  });
}

HistogramFamily& MetricsRegistry::AddHistogram(const std::string& name, const std::string& help,
                                               std::vector<double> buckets) {
  MutexLock lock(mutex_);
  return FindOrAdd(histograms_, name, [&] {
    return std::make_unique<HistogramFamily>(
        prometheus::BuildHistogram().Name(FullName(name)).Help(help).Register(*registry_),
        std::move(buckets));
  });
}

void MetricsRegistry::RemoveWhere(const std::string& name, const std::string& value) {
  MutexLock lock(mutex_);
  for (auto& [unused, family] : counters_) family->RemoveWhere(name, value);
  for (auto& [unused, family] : gauges_) family->RemoveWhere(name, value);
  for (auto& [unused, family] : histograms_) family->RemoveWhere(name, value);
}

void MetricsRegistry::OnScrape(std::function<void()> collect) {
  collector_->Add(std::move(collect));
}

std::string MetricsRegistry::Text() {
  return prometheus::TextSerializer().Serialize(collector_->Collect());
}

}  // namespace mindforge
