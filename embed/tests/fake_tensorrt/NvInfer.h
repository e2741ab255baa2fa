// The part of TensorRT's C++ interface that kdx uses. tensorrt.cpp implements it with a simple
// computation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "cuda_runtime_api.h"

#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_MINOR 16

extern "C" std::int32_t getInferLibVersion() noexcept;

namespace nvinfer1 {

struct Dims {
    std::int32_t nbDims;
    std::int64_t d[8];
};

class ILogger {
public:
    enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, const char *text) noexcept = 0;
    virtual ~ILogger() = default;
};

enum class ExecutionContextAllocationStrategy : std::int32_t { kSTATIC = 0, kON_PROFILE_CHANGE = 1, kUSER_MANAGED = 2 };

class ICudaEngine;

class IExecutionContext {
public:
    IExecutionContext(ICudaEngine &engine, bool is_user_managed);
    ~IExecutionContext();
    void setDeviceMemoryV2(void *memory, std::int64_t size) noexcept;
    bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t stream) noexcept;
    bool setInputShape(const char *tensor, const Dims &shape) noexcept;
    bool setTensorAddress(const char *tensor, void *address) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;

private:
    struct State;
    std::shared_ptr<State> state_;
    ICudaEngine &engine_;
};

class ICudaEngine {
public:
    ~ICudaEngine();
    std::int32_t getNbOptimizationProfiles() const noexcept;
    Dims getTensorShape(const char *tensor) const noexcept;
    std::int64_t getDeviceMemorySizeV2() const noexcept;
    IExecutionContext *createExecutionContext(
        ExecutionContextAllocationStrategy strategy = ExecutionContextAllocationStrategy::kSTATIC) noexcept;
    struct Plan;
    std::unique_ptr<Plan> plan;
    ILogger *log = nullptr;
};

class IRuntime {
public:
    explicit IRuntime(ILogger &log);
    ~IRuntime();
    ICudaEngine *deserializeCudaEngine(const void *plan, std::size_t size) noexcept;

private:
    ILogger &log_;
};

IRuntime *createInferRuntime(ILogger &log) noexcept;

}  // namespace nvinfer1
