/* A host-memory stand-in for the part of Ascend's CANN runtime that torch_npu calls outside of its kernels.
 *
 * Device memory is host memory, copies are memmove, streams and events are numbers and always done. FAKE_NPU_COUNT
 * devices (1) of the chip FAKE_NPU_SOC (Ascend910B3). What is not here, build_stub.py adds as functions that return 0.
 * Return codes are those of acl/acl_base.h: 0 is success, 107001 an invalid device, 207001 a failed allocation.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_DEVICE = 107001, ALLOCATION_FAILED = 207001, ALIGNMENT = 512 };

static int current;

static int device_count(void) {
    const char *count = getenv("FAKE_NPU_COUNT");
    return count ? atoi(count) : 1;
}

/* Devices */

int aclrtGetDeviceCount(uint32_t *count) { *count = device_count(); return OK; }
int aclrtGetDevice(int *device) { *device = current; return OK; }
int aclrtSetDevice(int device) {
    if (device < 0 || device >= device_count()) return INVALID_DEVICE;
    current = device;
    return OK;
}
const char *aclrtGetSocName(void) {
    const char *chip = getenv("FAKE_NPU_SOC");
    return chip ? chip : "Ascend910B3";
}
int aclrtGetCurrentContext(void **context) { *context = (void *)8; return OK; }
int aclrtDeviceCanAccessPeer(int *can, int device, int peer) { (void)device; (void)peer; *can = 1; return OK; }
int aclGetDeviceCapability(uint32_t device, int what, int64_t *value) { (void)device; (void)what; *value = 0; return OK; }

/* Memory */

int aclrtMalloc(void **memory, size_t size, int policy) {
    (void)policy;
    return posix_memalign(memory, ALIGNMENT, size ? size : ALIGNMENT) ? ALLOCATION_FAILED : OK;
}
int aclrtMallocAlign32(void **memory, size_t size, int policy) { return aclrtMalloc(memory, size, policy); }
int aclrtMallocWithCfg(void **memory, size_t size, int policy, void *config) { (void)config; return aclrtMalloc(memory, size, policy); }
int aclrtMallocHost(void **memory, size_t size) { return aclrtMalloc(memory, size, 0); }
int aclrtMallocHostWithCfg(void **memory, size_t size, void *config) { (void)config; return aclrtMalloc(memory, size, 0); }
int aclrtReserveMemAddress(void **memory, size_t size, size_t alignment, void *hint, uint64_t flags) {
    (void)alignment; (void)hint; (void)flags;
    return aclrtMalloc(memory, size, 0);
}
int aclrtFree(void *memory) { free(memory); return OK; }
int aclrtFreeHost(void *memory) { free(memory); return OK; }
int aclrtMemcpy(void *to, size_t room, const void *from, size_t size, int kind) { (void)room; (void)kind; memmove(to, from, size); return OK; }
int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, int kind, void *stream) { (void)stream; return aclrtMemcpy(to, room, from, size, kind); }
int aclrtMemset(void *memory, size_t room, int value, size_t size) { (void)room; memset(memory, value, size); return OK; }
int aclrtGetMemInfo(int which, size_t *available, size_t *total) { (void)which; *available = 8ul << 30; *total = 16ul << 30; return OK; }

/* Streams and events: numbers that look like addresses, and are always done */

static int next_handle(void **handle) {
    static uintptr_t made;
    *handle = (void *)(0x1000 + 8 * ++made);
    return OK;
}
int aclrtCreateStream(void **stream) { return next_handle(stream); }
int aclrtCreateStreamWithConfig(void **stream, uint32_t priority, uint32_t flags) { (void)priority; (void)flags; return next_handle(stream); }
int aclrtCreateEventExWithFlag(void **event, uint32_t flags) { (void)flags; return next_handle(event); }
int aclrtEventElapsedTime(float *milliseconds, void *start, void *end) { (void)start; (void)end; *milliseconds = 1; return OK; }
int aclrtQueryEventStatus(void *event, int *status) { (void)event; *status = 1; return OK; }
int aclrtStreamQuery(void *stream, int *status) { (void)stream; *status = 1; return OK; }

/* Compile options, messages, profiling */

size_t aclGetCompileoptSize(int option) { (void)option; return 64; }
int aclGetCompileopt(int option, char *value, size_t size) { (void)option; if (size) strncpy(value, "disable", size); return OK; }
const char *aclGetRecentErrMsg(void) { return ""; }
uint64_t MsprofGetHashId(const char *text, size_t size) { (void)text; (void)size; return 1; }
uint64_t MsprofSysCycleTime(void) { return 1; }
