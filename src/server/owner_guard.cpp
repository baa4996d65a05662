#include "owner_guard.h"

#include "catalog.h"

extern "C" {
#include "catalog/dependency.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_operator.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
}

namespace presence {

const char *guarded_statement = nullptr;

namespace {

post_parse_analyze_hook_type previous_hook = nullptr;

struct Trusted {
    Oid presence, pg_cron;
};

void require_trusted(const Trusted &trusted, Oid catalog, Oid object, Oid schema, const char *kind, const char *name)
{
    if (schema == PG_CATALOG_NAMESPACE)
        return;
    const Oid extension = getExtensionOfObject(catalog, object);
    if (OidIsValid(extension) && (extension == trusted.presence || extension == trusted.pg_cron))
        return;
    ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                    errmsg("extension \"presence\" refuses to work with %s \"%s\", which is not its own", kind,
                           name != nullptr ? name : "?"),
                    errdetail("A schema or an object was renamed or replaced while a statement was being prepared."),
                    errhint("Repeat the call. If it fails again, see who owns the schema of the extension.")));
}

void check_relation(const Trusted &trusted, Oid relation)
{
    require_trusted(trusted, RelationRelationId, relation, get_rel_namespace(relation), "relation",
                    get_rel_name(relation));
}

void check_type(const Trusted &trusted, Oid type)
{
    if (const Oid element = get_element_type(type); OidIsValid(element))
        type = element;
    // Of a table it is the table that belongs to somebody.
    if (const Oid relation = get_typ_typrelid(type); OidIsValid(relation) && get_rel_relkind(relation) != '\0' &&
                                                     get_rel_relkind(relation) != RELKIND_COMPOSITE_TYPE) {
        check_relation(trusted, relation);
        return;
    }
    require_trusted(trusted, TypeRelationId, type, catalog_field(TYPEOID, type, &FormData_pg_type::typnamespace),
                    "type", format_type_be(type));
}

void check_operator(const Trusted &trusted, Oid oid)
{
    require_trusted(trusted, OperatorRelationId, oid, catalog_field(OPEROID, oid, &FormData_pg_operator::oprnamespace),
                    "operator", get_opname(oid));
}

bool check_function(Oid function, void *context)
{
    require_trusted(*static_cast<const Trusted *>(context), ProcedureRelationId, function, get_func_namespace(function),
                    "function", get_func_name(function));
    return false;
}

bool check_node(Node *node, void *context);

bool walk_query(Query *query, void *context)
{
    return query_tree_walker(query, compat::tree_walker(check_node), context,
                             QTW_EXAMINE_RTES_BEFORE | QTW_EXAMINE_SORTGROUP);
}

// True ends the walk; nothing does, because what is foreign raises an error.
bool check_node(Node *node, void *context)
{
    if (node == nullptr)
        return false;
    const auto &trusted = *static_cast<const Trusted *>(context);
    switch (nodeTag(node)) {
    case T_Query:
        return walk_query(reinterpret_cast<Query *>(node), context);
    case T_RangeTblEntry: {
        const auto *entry = reinterpret_cast<RangeTblEntry *>(node);
        if (entry->rtekind == RTE_RELATION)
            check_relation(trusted, entry->relid);
        return false;
    }
    case T_SortGroupClause: {
        const auto *clause = reinterpret_cast<SortGroupClause *>(node);
        check_operator(trusted, clause->eqop);
        if (OidIsValid(clause->sortop))
            check_operator(trusted, clause->sortop);
        return false;
    }
    case T_OpExpr:
        check_operator(trusted, reinterpret_cast<OpExpr *>(node)->opno);
        break;
    case T_ScalarArrayOpExpr:
        check_operator(trusted, reinterpret_cast<ScalarArrayOpExpr *>(node)->opno);
        break;
    case T_Const:
    case T_Param:
    case T_FuncExpr:
    case T_RelabelType:
    case T_CoerceViaIO:
    case T_ArrayCoerceExpr:
    case T_CoerceToDomain:
    case T_RowExpr:
        check_type(trusted, exprType(node));
        break;
    default:
        break;
    }
    (void)check_functions_in_node(node, check_function, context);
    return expression_tree_walker(node, compat::tree_walker(check_node), context);
}

void on_analysed(ParseState *state, Query *query, compat::AnalysedJumbleState *jumble)
{
    if (previous_hook != nullptr)
        previous_hook(state, query, jumble);
    if (likely(guarded_statement == nullptr) || state->p_sourcetext == nullptr ||
        strcmp(state->p_sourcetext, guarded_statement) != 0)
        return;
    Trusted trusted{get_extension_oid("presence", true), get_extension_oid("pg_cron", true)};
    (void)walk_query(query, &trusted);
}

}  // namespace

void install_owner_guard()
{
    previous_hook = post_parse_analyze_hook;
    post_parse_analyze_hook = on_analysed;
}

}  // namespace presence
