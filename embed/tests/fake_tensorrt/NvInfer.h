// The part of TensorRT's C++ interface that kdx uses. tensorrt.cpp implements it with a simple
// computation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "cuda_runtime_api.h"

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

class ICudaEngine;

class IExecutionContext {
public:
    explicit IExecutionContext(ICudaEngine &engine);
    ~IExecutionContext();
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
    IExecutionContext *createExecutionContext() noexcept;
    struct Plan;
    std::unique_ptr<Plan> plan;
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
