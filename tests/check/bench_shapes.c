/* SPDX-License-Identifier: Apache-2.0
 * What is measured on a GPU: the layers of Llama-3.2-1B and Llama-3.1-8B, one large square matmul
 * or two, and every op that memory bounds on some 128 MiB or more. */
#include "tests/check/check.h"

#define TOKENS(X, shape) \
    X("1", shape)        \
    X("2", shape)        \
    X("4", shape)        \
    X("8", shape)        \
    X("16", shape)       \
    X("32", shape)       \
    X("64", shape)
#define PROMPTS(X, shape) \
    X("512", shape)       \
    X("2048", shape)      \
    X("8192", shape)
#define BF16_(T, shape) "matmul:bf16:T=" T "," shape,
/* Weights split by their inputs have leaves: attention output and MLP down. */
#define LAYERS_1B(X, over)           \
    over(X, "N=3072,K=2048")         \
    over(X, "N=2048,K=2048,leaves=8") \
    over(X, "N=16384,K=2048")        \
    over(X, "N=2048,K=8192,leaves=8")
#define LAYERS_8B(X, over)            \
    over(X, "N=6144,K=4096")          \
    over(X, "N=4096,K=4096,leaves=8") \
    over(X, "N=14336,K=4096")         \
    over(X, "N=4096,K=14336,leaves=8")

const char *const check_gpu_shapes[] = {
    "matmul:bf16:T=4096,N=4096,K=4096",
    "matmul:bf16:T=8192,N=8192,K=8192",
    "matmul:fp16:T=4096,N=4096,K=4096",
    "matmul:fp32:T=2048,N=4096,K=4096",
    LAYERS_8B(BF16_, PROMPTS) LAYERS_1B(BF16_, PROMPTS) LAYERS_8B(BF16_, TOKENS)
        TOKENS(BF16_, "N=4096,K=4096") TOKENS(BF16_, "N=4096,K=14336")
            TOKENS(BF16_, "N=8192,K=8192") "matmul:bf16:T=1,N=128256,K=4096,y=1",
    "matmul:bf16:T=16,N=128256,K=4096,y=1",
    "matmul:bf16:T=64,N=128256,K=4096,y=1",
    "matmul:fp32:T=1,N=4096,K=4096",
    "matmul:fp16:T=1,N=14336,K=4096",
    "rmsnorm:bf16:T=16384,H=4096",
    "rmsnorm:bf16:T=16384,H=4096,res=1",
    "rmsnorm:fp32:T=16384,H=4096,res=1",
    "rmsnorm:bf16:T=1,H=4096,res=1",
    "layernorm:bf16:T=16384,H=4096",
    "layernorm:bf16:T=16384,H=4096,res=1",
    "glu:bf16:T=8192,N=14336,act=1",
    "glu:fp32:T=8192,N=14336,act=1",
    "glu:bf16:T=1,N=14336,act=1",
    "activation:bf16:T=8192,N=14336,act=3",
    "add:bf16:T=16384,N=4096",
    "add:fp32:T=16384,N=4096",
    "rope:bf16:T=16384,H=32,D=128,R=64",
    "rope:bf16:T=1,H=32,D=128,R=64",
    "softmax:fp32:T=512,N=128256",
    "softmax:bf16:T=16384,N=8192",
    "softmax:fp32:T=1,N=128256",
    "embed:bf16:T=4096,V=128256,H=4096",
    "cast:fp32:T=16384,N=4096,y=3",
    "cast:bf16:T=16384,N=4096,y=1",
    "kv_append:bf16:T=65536,H=8,D=128,page=16",
    "gather:bf16:T=16384,R=16384,N=4096",
    "leaf_sum:bf16:L=8,T=2048,N=4096,res=1",
    "argmax:fp32:T=512,N=128256",
    "argmax:fp32:T=1,N=128256",
    "argmax:fp32:T=64,N=128256",
    "token_logprob:fp32:T=512,V=128256",
    "attention:bf16:S=1,H=32,group=4,D=128,keys=2048,page=16,tile=32",
    "attention:bf16:S=1,H=32,group=4,D=128,keys=8192,page=16,tile=32",
    "attention:bf16:S=1,H=32,group=4,D=64,keys=2048,page=16,tile=32",
    "attention:bf16:S=1,H=32,group=4,D=64,keys=8192,page=16,tile=32",
    "attention:bf16:S=1,H=32,group=4,D=128,keys=1024,page=16,q=1",
    "attention:bf16:S=1,H=32,group=4,D=128,keys=8192,page=16,q=1",
    "attention:bf16:S=1,H=32,group=4,D=128,keys=32768,page=16,q=1",
    "attention:bf16:S=16,H=32,group=4,D=128,keys=1024,page=16,q=1",
    "attention:bf16:S=16,H=32,group=4,D=128,keys=8192,page=16,q=1",
    "attention:bf16:S=16,H=32,group=4,D=128,keys=32768,page=16,q=1",
    "attention:bf16:S=64,H=32,group=4,D=128,keys=1024,page=16,q=1",
    "attention:bf16:S=64,H=32,group=4,D=128,keys=8192,page=16,q=1",
    "attention:bf16:S=64,H=32,group=4,D=64,keys=8192,page=16,q=1",
    "attention:bf16:S=64,H=32,group=4,D=128,keys=32768,page=16,q=1",
    "sample:fp32:R=1,V=128256,C=64,mode=0",
    "sample:fp32:R=64,V=128256,C=64,mode=0",
    "sample:fp32:R=1,V=128256,C=64,mode=2",
    "sample:fp32:R=64,V=128256,C=64,mode=2",
    NULL};
