// The part of attach_table that looks whether a filter is one SQL condition on the row.
#include "pg/attach_checks.h"
#include "pg/table_scope.h"

extern "C" {
#include "nodes/parsenodes.h"
#include "parser/parser.h"
}

namespace token_refresh {

namespace {

bool IsOneExpression(List* statements) {
  if (list_length(statements) != 1) return false;
  Node* node = linitial_node(RawStmt, statements)->stmt;
  if (!IsA(node, SelectStmt)) return false;
  SelectStmt* select = castNode(SelectStmt, node);
  return select->op == SETOP_NONE && list_length(select->targetList) == 1 && select->distinctClause == NIL &&
         select->intoClause == nullptr && select->fromClause == NIL && select->whereClause == nullptr &&
         select->groupClause == NIL && select->havingClause == nullptr && select->windowClause == NIL &&
         select->valuesLists == NIL && select->sortClause == NIL && select->limitOffset == nullptr &&
         select->limitCount == nullptr && select->lockingClause == NIL && select->withClause == nullptr &&
         linitial_node(ResTarget, select->targetList)->name == nullptr;
}

// False, with the problem noted, when sql is not one SELECT of one expression and nothing else.
bool CheckExpression(const char* sql, Problems* problems) {
  MemoryContext context = CurrentMemoryContext;
  volatile bool one = false, failed = false;
  PG_TRY();
  { one = IsOneExpression(raw_parser(sql, RAW_PARSE_DEFAULT)); }
  PG_CATCH();
  {
    MemoryContextSwitchTo(context);
    ErrorData* error = CopyErrorData();
    if (error->sqlerrcode != ERRCODE_SYNTAX_ERROR) PG_RE_THROW();
    FlushErrorState();
    AddProblem(problems, "option \"filter\": %s", error->message);
    failed = true;
  }
  PG_END_TRY();
  if (!one && !failed) AddProblem(problems, "option \"filter\" must be one SQL condition and nothing else");
  return one;
}

}  // namespace

// What it means is found out by trying it. Neither does it rely on parentheses round it, nor does it close them.
void CheckFilterSyntax(const AttachPlan& plan, Problems* problems) {
  if (plan.filter == nullptr) return;
  const int nest_level = NewGUCNestLevel();
  FixSqlMeaning();
  if (CheckExpression(psprintf("SELECT %s\n", plan.filter), problems))
    CheckExpression(psprintf("SELECT (%s\n)", plan.filter), problems);
  AtEOXact_GUC(false, nest_level);
}

}  // namespace token_refresh
