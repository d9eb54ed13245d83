/* SPDX-License-Identifier: Apache-2.0
 * The CUDA runtime as far as host/run/device_cuda.c uses it, on the emulated GPU: the twin of the
 * toolkit's header, chosen by the include path. Names, values and rules are CUDA's; symbols begin
 * with emu_, so that both runtimes fit in one binary. */
#pragma once
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif

/* X(name, code, what cudaGetErrorString says) */
#define EMU_CUDA_ERRORS(X) \
    X(cudaSuccess, 0, "no error") \
    X(cudaErrorInvalidValue, 1, "invalid argument") \
    X(cudaErrorMemoryAllocation, 2, "out of memory") \
    X(cudaErrorInitializationError, 3, "initialization error") \
    X(cudaErrorInsufficientDriver, 35, "CUDA driver version is insufficient for CUDA runtime") \
    X(cudaErrorNoDevice, 100, "no CUDA-capable device is detected") \
    X(cudaErrorInvalidDevice, 101, "invalid device ordinal") \
    X(cudaErrorNoKernelImageForDevice, 209, "no kernel image is available for execution") \
    X(cudaErrorECCUncorrectable, 214, "uncorrectable ECC error encountered") \
    X(cudaErrorInvalidResourceHandle, 400, "invalid resource handle") \
    X(cudaErrorNotReady, 600, "device not ready") \
    X(cudaErrorPeerAccessAlreadyEnabled, 704, "peer access is already enabled") \
    X(cudaErrorIllegalAddress, 700, "an illegal memory access was encountered") \
    X(cudaErrorLaunchFailure, 719, "unspecified launch failure") \
    X(cudaErrorStreamCaptureUnsupported, 900, "operation not permitted when stream is capturing") \
    X(cudaErrorStreamCaptureInvalidated, 901, \
      "operation failed due to a previous error during capture") \
    X(cudaErrorUnknown, 999, "unknown error")

#define EMU_CUDA_ERROR_(name, code, words) name = code,
typedef enum { EMU_CUDA_ERRORS(EMU_CUDA_ERROR_) EMU_CUDA_ERROR_END } cudaError_t;

enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice
};
enum cudaDeviceAttr {
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
enum { cudaStreamNonBlocking = 1, cudaHostAllocDefault = 0, cudaEventDisableTiming = 2 };

typedef struct emu_queue *cudaStream_t;
typedef struct emu_event *cudaEvent_t;
typedef struct emu_graph *cudaGraph_t, *cudaGraphExec_t;

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};

#define cudaGetLastError emu_cuda_get_last_error
#define cudaGetErrorString emu_cuda_get_error_string
#define cudaGetErrorName emu_cuda_get_error_name
#define cudaDriverGetVersion emu_cuda_driver_get_version
#define cudaRuntimeGetVersion emu_cuda_runtime_get_version
#define cudaGetDeviceCount emu_cuda_get_device_count
#define cudaDeviceGetAttribute emu_cuda_device_get_attribute
#define cudaGetDeviceProperties emu_cuda_get_device_properties
#define cudaSetDevice emu_cuda_set_device
#define cudaDeviceCanAccessPeer emu_cuda_device_can_access_peer
#define cudaDeviceEnablePeerAccess emu_cuda_device_enable_peer_access
#define cudaMemGetInfo emu_cuda_mem_get_info
#define cudaMalloc emu_cuda_malloc
#define cudaFree emu_cuda_free
#define cudaHostAlloc emu_cuda_host_alloc
#define cudaFreeHost emu_cuda_free_host
#define cudaMemcpyAsync emu_cuda_memcpy_async
#define cudaMemcpy2DAsync emu_cuda_memcpy_2d_async
#define cudaMemsetAsync emu_cuda_memset_async
#define cudaStreamCreateWithFlags emu_cuda_stream_create_with_flags
#define cudaStreamDestroy emu_cuda_stream_destroy
#define cudaStreamSynchronize emu_cuda_stream_synchronize
#define cudaStreamWaitEvent emu_cuda_stream_wait_event
#define cudaEventCreateWithFlags emu_cuda_event_create_with_flags
#define cudaEventRecord emu_cuda_event_record
#define cudaEventQuery emu_cuda_event_query
#define cudaEventDestroy emu_cuda_event_destroy
#define cudaStreamBeginCapture emu_cuda_stream_begin_capture
#define cudaStreamEndCapture emu_cuda_stream_end_capture
#define cudaGraphInstantiate emu_cuda_graph_instantiate
#define cudaGraphLaunch emu_cuda_graph_launch
#define cudaGraphDestroy emu_cuda_graph_destroy
#define cudaGraphExecDestroy emu_cuda_graph_exec_destroy

cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);
const char *cudaGetErrorName(cudaError_t e);
cudaError_t cudaDriverGetVersion(int *out);
cudaError_t cudaRuntimeGetVersion(int *out);
cudaError_t cudaGetDeviceCount(int *out);
cudaError_t cudaDeviceGetAttribute(int *out, enum cudaDeviceAttr what, int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer);
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *bytes);
cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t s);
cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g);

#ifdef __cplusplus
}
#endif
