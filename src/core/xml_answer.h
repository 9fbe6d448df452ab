// An answer in XML as the object that an answer in JSON would be. For ReadAnswerBody, where the provider's options
// say that XML comes.
#pragma once

#include <string_view>

#include "core/answer_body.h"

namespace token_refresh {

// {root: value}. The value of an element is its text, without white space at its ends, or, if it has elements in
// it, an object of these; those of one name are a list. Attributes are not looked at. What a document type
// declaration could declare is never read: an answer with one is markup, as HTML is. The caller has bounded the size.
// Of a document that breaks off nothing counts: it cannot be seen which text is whole.
AnswerBody ReadXmlAnswer(std::string_view xml);

}  // namespace token_refresh
