# kdx_python_package(NAME RESULT): sets RESULT to the folder of a Python package of the interpreter
# in use, or to an empty text. The package is located but not imported.
function(kdx_python_package name result)
  find_package(Python3 QUIET COMPONENTS Interpreter)
  set(found "")
  if(Python3_Interpreter_FOUND)
    execute_process(
      COMMAND "${Python3_EXECUTABLE}" -c
        "import importlib.util as u; s = u.find_spec('${name}'); print(next(iter(s.submodule_search_locations)) if s else '', end='')"
      OUTPUT_VARIABLE found ERROR_QUIET)
  endif()
  if(found)
    file(TO_CMAKE_PATH "${found}" found)
  endif()
  set(${result} "${found}" PARENT_SCOPE)
endfunction()
