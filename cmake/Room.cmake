# pgstow_room(NAME [PUBLIC lib...] [PRIVATE lib...]): one folder of src/ is one static library.
# PUBLIC: rooms whose headers this room's own header includes. PRIVATE: what only its .c files use.
# The layers of docs/architecture.md are checked over the include lines by scripts/check.
function(pgstow_room name)
    cmake_parse_arguments(ROOM "" "" "PUBLIC;PRIVATE" ${ARGN})
    file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.c)
    add_library(${name} STATIC ${sources})
    target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(${name} PUBLIC ${ROOM_PUBLIC} PRIVATE ${ROOM_PRIVATE})
endfunction()
