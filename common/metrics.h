// The process's metrics and the HTTP endpoint that shows them (/metrics), over prometheus-cpp.
//
// A registry is passed to whoever measures: there is no global one. Names get the prefix mindforge_
// unless they begin with grpc_.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "common/net.h"
#include "common/unique_fd.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace mindforge {

using MetricLabels = std::map<std::string, std::string>;

// `count` bounds from `start`, each `factor` times the one before.
std::vector<double> ExponentialBuckets(double start, double factor, int count);
// Seconds from 0.1 ms to about 52 s, doubling: a small model's step, a store's commit, a request.
std::vector<double> LatencyBuckets();

// All series of one metric. Thread-safe. What Get returns lives until the series is removed or the
// registry goes: who removes series must not let others keep pointers to them.
template <typename T>
class MetricFamily {
 public:
  MetricFamily(prometheus::Family<T>& family, std::vector<double> buckets)
      : family_(family), buckets_(std::move(buckets)) {}

  // The series with these labels; comes into being at the first call.
  T& Get(const MetricLabels& labels = {}) {
    MutexLock lock(mutex_);
    T*& series = series_[labels];
    if (series == nullptr) {
      if constexpr (std::is_same_v<T, prometheus::Histogram>) {
        series = &family_.Add(labels, buckets_);
      } else {
        series = &family_.Add(labels);
      }
    }
    return *series;
  }

  // Removes every series whose label `name` is `value`.
  void RemoveWhere(const std::string& name, const std::string& value) {
    MutexLock lock(mutex_);
    std::erase_if(series_, [&](const auto& entry) {
      const auto label = entry.first.find(name);
      if (label == entry.first.end() || label->second != value) return false;
      family_.Remove(entry.second);
      return true;
    });
  }

 private:
  prometheus::Family<T>& family_;
  const std::vector<double> buckets_;
  Mutex mutex_;
  std::map<MetricLabels, T*> series_ ABSL_GUARDED_BY(mutex_);
};

using CounterFamily = MetricFamily<prometheus::Counter>;
using GaugeFamily = MetricFamily<prometheus::Gauge>;
using HistogramFamily = MetricFamily<prometheus::Histogram>;

// The metrics of one process (or, in tests, of one of several in it). Thread-safe. Families live as
// long as it does; adding a name twice gives the same family.
class MetricsRegistry {
 public:
  // Adds mindforge_build_info{program,version,build_type} = 1.
  explicit MetricsRegistry(std::string_view program);
  ~MetricsRegistry();

  // `help` is a sentence. Counters end in _total.
  CounterFamily& AddCounter(const std::string& name, const std::string& help);
  GaugeFamily& AddGauge(const std::string& name, const std::string& help);
  HistogramFamily& AddHistogram(const std::string& name, const std::string& help,
                                std::vector<double> buckets = LatencyBuckets());

  // Removes every series, of all families, whose label `name` is `value`: an ended job's.
  void RemoveWhere(const std::string& name, const std::string& value);

  // `collect` runs before each scrape, to set gauges from state. REQUIRES: what it uses outlives
  // the MetricsServer.
  void OnScrape(std::function<void()> collect);

  // What /metrics answers.
  std::string Text();

 private:
  class Collector;

  std::shared_ptr<prometheus::Registry> registry_;
  std::shared_ptr<Collector> collector_;
  Mutex mutex_;
  std::map<std::string, std::unique_ptr<CounterFamily>> counters_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::unique_ptr<GaugeFamily>> gauges_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::unique_ptr<HistogramFamily>> histograms_ ABSL_GUARDED_BY(mutex_);
};

// Serves a registry's metrics at http://HOST:PORT/metrics until it goes.
class MetricsServer {
 public:
  // Port 0 picks one. INVALID_ARGUMENT: no HOST:PORT. ALREADY_EXISTS: the port is taken; the
  // message names `flag`. `registry` is borrowed and must outlive the server.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& address,
                                                              MetricsRegistry& registry,
                                                              std::string_view flag = "--metrics");
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  int port() const { return socket_.port; }

 private:
  MetricsServer(ListeningSocket socket, UniqueFd wake, MetricsRegistry& registry);
  void Run();
  void Answer(int connection);

  const ListeningSocket socket_;
  const UniqueFd wake_;  // an eventfd: readable when it is time to stop
  MetricsRegistry& registry_;
  std::thread thread_;  // answers one scrape at a time
};

}  // namespace mindforge
