// config_tool.c: drives model/config_json.h and run/model_choice.h for test_models.py.
//
//     config_tool read FILE [DTYPE]       reads a config.json and writes it again, in lines:
//                                         config.json, generation_config.json, parameters
//     config_tool lines                   the same for each line of stdin, in one line each:
//                                         config.json, or the error
//     config_tool shape TRAIN-OPTIONS...  the config.json of the model that the options describe
//     config_tool grid FILE TP PP         whether the grid can hold the model
//     config_tool same FILE FILE          whether the models are the same
//     config_tool flops FILE T            operations per token
#include "model/flops.h"
#include "run/model_choice.h"

#include "test/tool.h"

static int print_line(JsonWriter *line) {
    puts(line->failed ? "out of memory" : line->data);
    free(line->data);
    return line->failed;
}

static int write_model(const ModelConfig *c, Dtype dtype) {
    const ModelShard whole = shard_whole(c);
    JsonWriter config = {0}, generation = {0};
    config_write(&config, c, dtype);
    generation_config_write(&generation, c);
    int failed = print_line(&config) | print_line(&generation);
    printf("%zu\n", shard_parameters(c, &whole));
    return failed;
}

static int read_lines(void) {
    size_t length;
    char *text = read_stdin(&length);
    for (size_t at = 0, end; at < length; at = end + 1) {
        JsonDocument document;
        JsonWriter written = {0};
        ModelConfig c;
        Error e = {0};
        const char *stop = memchr(text + at, '\n', length - at);
        end = stop ? (size_t)(stop - text) : length;

        bool parsed = json_parse(&document, text + at, end - at, "stdin", &e);
        if (parsed && config_parse(document.root, "stdin", &c, &e)) {
            config_write(&written, &c, DTYPE_F32);
            print_line(&written);
        } else {
            puts(e.text);
        }
        json_free(&document);
    }
    free(text);
    return 0;
}

static int shape(int argc, char **argv) {
    Options o;
    Error e = {0};
    ModelConfig c;
    if (!options_parse(&o, argc, argv, TRAIN, "train", &e) ||
        !shape_from_options(&o, "train", &c, &e)) {
        return stop(&e);
    }
    return write_model(&c, DTYPE_F32);
}

int main(int argc, char **argv) {
    Error e = {0};
    ModelConfig c, other;
    const char *command = argc > 1 ? argv[1] : "";
    if (!strcmp(command, "shape")) {
        return shape(argc, argv);
    }
    if (!strcmp(command, "lines")) {
        return read_lines();
    }
    if (argc < 3) {
        fprintf(stderr, "unknown command\n");
        return 2;
    }
    if (!config_load_file(argv[2], &c, &e)) {
        return stop(&e);
    }

    if (!strcmp(command, "read")) {
        return write_model(&c, argc > 3 ? dtype_of(argv[3]) : DTYPE_F32);
    }
    if (!strcmp(command, "grid") && argc == 5) {
        return grid_fits(&c, strtoul(argv[3], NULL, 10), strtoul(argv[4], NULL, 10), &e) ? 0
                                                                                         : stop(&e);
    }
    if (!strcmp(command, "same") && argc == 4) {
        if (!config_load_file(argv[3], &other, &e)) {
            return stop(&e);
        }
        printf("%d\n", config_same_shape(&c, &other));
        return 0;
    }
    if (!strcmp(command, "flops") && argc == 4) {
        printf("%.17g\n", flops_per_token(&c, strtoul(argv[3], NULL, 10)));
        return 0;
    }
    fprintf(stderr, "unknown command\n");
    return 2;
}
