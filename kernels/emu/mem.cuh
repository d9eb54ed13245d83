/* SPDX-License-Identifier: Apache-2.0
 * The twin of kernels/lib/mem.cuh: every access is looked at before it is made. */
#pragma once
#include <launch.cuh>

namespace WEFT_CU_NS {

template <class T> T ld_global(const T *p, EMU_AT) {
    ::emu::global_access(p, sizeof(T), alignof(T), ::emu::LOAD, at);
    return *p;
}
template <class T> T ld_const(const T *p, EMU_AT) {
    ::emu::global_access(p, sizeof(T), alignof(T), ::emu::LOAD_CONST, at);
    return *p;
}
template <class T> void st_global(T *p, T v, EMU_AT) {
    ::emu::global_access(p, sizeof(T), alignof(T), ::emu::STORE, at);
    *p = v;
}
template <class T> T ld_shared(const T *p, EMU_AT) {
    ::emu::shared_access(p, sizeof(T), alignof(T), ::emu::LOAD, at);
    return *p;
}
template <class T> void st_shared(T *p, T v, EMU_AT) {
    ::emu::shared_access(p, sizeof(T), alignof(T), ::emu::STORE, at);
    *p = v;
}

} // namespace WEFT_CU_NS
