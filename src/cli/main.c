/* cli/main.c - the one binary: THE table of commands, help that fits one screen, errors and exit codes from base's table. */
#include "cli/cli.h"
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

const command command_table[] = {
    {"pull", "models", "NAME|URL|FILE", "fetch a model, verified", "모델을 받아 검증합니다", "maru pull smollm2-135m", cmd_pull},
    {"models", "models", "", "what is installed and what can be had", "설치된 모델과 받을 수 있는 모델", "maru models", cmd_models},
    {"info", "models", "MODEL", "what a model file holds", "모델 파일의 내용", "maru info smollm2-135m", cmd_info},
    {"tokenize", "models", "MODEL --text T | FILE", "text to token ids", "글을 토큰으로", "maru tokenize smollm2-135m --text 'Hello there'", cmd_tokenize},
    {"run", "models", "MODEL PROMPT", "continue a text; --probs shows the next words", "글을 이어 씁니다 (--probs: 다음 낱말의 확률)", "maru run smollm2-135m 'The capital of France is' -n 8 --probs=5", cmd_run, true},
    {"chat", "models", "MODEL", "a conversation", "대화합니다", "maru chat smollm2-135m --once 'What is the capital of France?'", cmd_chat, true},
    {"embed", "models", "MODEL --text T | FILE", "texts to vectors", "글을 벡터로", "maru embed e5-small --as query --text '연차는 며칠인가요?'", cmd_embed},
    {"add", "documents", "PATH... --to COLLECTION", "load, split, embed and store documents", "문서를 읽어 나누고 저장합니다", "maru add samples/docs --to demo -e e5-small", cmd_add, true},
    {"sync", "documents", "DIR --to COLLECTION", "follow a folder: new, changed, renamed, removed files", "폴더를 따라갑니다 (새것, 바뀐 것, 옮긴 것, 지운 것)", "maru sync samples/docs --to demo --dry-run", cmd_sync, true},
    {"docs", "documents", "COLLECTION", "list documents", "문서 목록", "maru docs demo", cmd_docs},
    {"remove", "documents", "ID... --from COLLECTION", "delete documents and every trace of their text", "문서를 지웁니다", "maru remove samples/docs/ko/faq.html --from demo", cmd_remove},
    {"text", "documents", "DOCUMENT --in COLLECTION", "a document's canonical text, or a range of it", "문서의 글 또는 그 일부", "maru text samples/docs/ko/handbook.md --in demo --range 0:200", cmd_text},
    {"search", "documents", "QUERY --in COLLECTION", "find passages", "문서에서 찾습니다", "maru search '연차 이월' --in demo -k 3", cmd_search},
    {"ask", "documents", "QUESTION --in COLLECTION", "an answer whose every sentence cites", "문서를 근거로 답합니다", "maru ask '연차는 며칠까지 이월할 수 있나요?' --in demo", cmd_ask, true},
    {"calibrate", "documents", "--in COLLECTION", "set when to say that the documents do not answer", "답하지 않을 기준을 정합니다", "maru calibrate --in demo", cmd_calibrate, true},
    {"tune", "adapt", "MODEL DATA -o OUT --train WAY", "teach a model; tune check DATA -m MODEL: what it would learn", "모델을 가르칩니다 (tune check: 무엇을 배울지)", "maru tune smollm2-135m samples/tune/reviews.tsv -o /tmp/reviews --train lora:8", cmd_tune, true},
    {"tokenizer", "adapt", "train TEXT... -o OUT --size N", "learn a vocabulary", "글에서 어휘를 배웁니다", "maru tokenizer train README.md -o vocab.gguf --size 512", cmd_tokenizer},
    {"new", "adapt", "--arch A --shape S -o OUT", "an untrained model", "배우지 않은 모델을 만듭니다", "maru new --arch llama --shape tiny --vocab smollm2-135m -o new.gguf", cmd_new},
    {"convert", "adapt", "IN OUT", "a Hugging Face folder into a GGUF, a GGUF into a folder", "허깅 페이스 폴더와 GGUF를 서로 바꿉니다", "maru convert smollm2-135m smollm2-folder", cmd_convert},
    {"merge", "adapt", "MODEL ADAPTER[:SCALE]... -o OUT", "an adapter into the weights, and what that costs", "어댑터를 가중치에 합치고 그 오차를 알립니다", "maru merge smollm2-135m /tmp/reviews -o reviews.gguf", cmd_merge},
    {"quantize", "adapt", "IN OUT --type T", "a model in fewer bits, and what that costs", "모델을 적은 비트로 줄이고 그 값을 알립니다", "maru quantize smollm2-135m /tmp/small.gguf --type q4_0 --requantize", cmd_quantize, true},
    {"eval", "measure", "nll|retrieval|answers|classify", "likelihood, retrieval, answers, classes, with intervals", "우도, 검색, 답변, 분류를 잽니다", "maru eval nll smollm2-135m README.md", cmd_eval},
    {"bench", "measure", "MODEL", "speed against this machine's limits", "이 기계의 한계에 견준 속도", "maru bench smollm2-135m -p 64 -n 16", cmd_bench},
};
static const struct { const char *name, *en, *ko; } groups[] = {
    {"models", "use a model", "모델 쓰기"}, {"documents", "ask documents", "문서에 묻기"}, {"adapt", "adapt a model", "모델 맞추기"}, {"measure", "measure", "재기"}};

atomic_bool cli_cancel;

static void usage(void)
{
    printf("%s\n\n", L("maru: 내 기계에서 언어 모델을 쓰고, 내 문서에 근거를 달아 답합니다", "maru: language models on your own machine, answers from your own documents with citations"));
    for (usize g = 0; g < COUNT_OF(groups); g++) {
        printf("%s\n", L(groups[g].ko, groups[g].en));
        for (usize i = 0; i < COUNT_OF(command_table); i++) {
            const command *c = &command_table[i];
            if (!strcmp(c->group, groups[g].name)) printf("  %-10s %-26s %s\n", c->name, c->args, L(c->help_ko, c->help_en));
        }
        printf("\n");
    }
    printf("%s\n", L("maru COMMAND --help: 자세한 설명과 예. 공통: --json -t N --seed N --home DIR -q -v",
                     "maru COMMAND --help: options and an example. Everywhere: --json -t N --seed N --home DIR -q -v"));
}

static void on_interrupt(int sig)
{
    (void)sig;
    if (atomic_exchange(&cli_cancel, true)) _exit(130); /* the second time means it */
}

static bool wants_json(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--json")) return true;
    return false;
}

static int fail(err e, bool json, json_t *with)
{
    if (json) {
        json_t *o = with ? json_incref(with) : json_object();
        json_set(o, "error", json_pack("{s:s,s:o}", "code", err_name(e.code), "message", json_str(str_of(e.what))));
        json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        printf("\n");
        json_decref(o);
    } else {
        fputs("maru: ", stderr);
        cli_shown(stderr, e.what); /* it may quote a file's name, or what stands in a file */
        fputc('\n', stderr);
    }
    return err_exit(e.code);
}

static int run(const command *k, int argc, char **argv)
{
    cli c = {.out = json_object()};
    if (k->stops) sigaction(SIGINT, &(struct sigaction){.sa_handler = on_interrupt}, NULL); /* the others just end */
    err e = k->run(&c, argc, argv);
    int code = 0;
    if (e.code == ERR_CANCELLED && !*e.what) { /* --help */
    } else if (e.code) {
        code = fail(e, wants_json(argc, argv), c.report ? c.out : NULL);
    } else if (c.json) {
        json_dumpf(c.out, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        printf("\n");
    }
    json_decref(c.out);
    mem_free(c.arg.v);
    if (!code && atomic_load(&cli_cancel)) code = err_exit(ERR_CANCELLED); /* a part was written: say that it is one */
    if (fflush(stdout)) code = code ? code : err_exit(ERR_IO);
    return code;
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, "");
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        usage();
        return 0;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("maru 0.1\n");
        return 0;
    }
    err e = cpu_init();
    if (e.code) return fail(e, wants_json(argc, argv), NULL);
    for (usize i = 0; i < COUNT_OF(command_table); i++)
        if (!strcmp(argv[1], command_table[i].name)) return run(&command_table[i], argc - 1, argv + 1);
    if (argv[1][0] == '-') return fail(err_new(ERR_INPUT, L("%s이(가) 명령보다 앞에 있습니다: maru COMMAND 다음에 선택 사항을 씁니다", "%s before a command: expected maru COMMAND, then its options"), argv[1]), wants_json(argc, argv), NULL);
    return fail(err_new(ERR_INPUT, L("\"%s\" 명령이 없습니다: maru --help가 보여 줍니다", "no command \"%s\": maru --help lists them"), argv[1]), wants_json(argc, argv), NULL);
}
