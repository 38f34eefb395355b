/* What belongs to a task. */
#include "scenario.h"

#include <sys/prctl.h>

SCENARIO(name_with_parentheses) {
    TRY(prctl(PR_SET_NAME, "a) (b\nc"));
    be_dumped();
    char name[16];
    TRY(prctl(PR_GET_NAME, name));
    CHECK(!strcmp(name, "a) (b\nc"));
}
